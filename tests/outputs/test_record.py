"""Test that the record of a picture comes back from its file."""

from importlib import metadata

import numpy as np
import pytest
from PIL import Image

import diffusers_ext
from diffusers_ext.outputs.parameters import parameters
from diffusers_ext.outputs.record import read, versions, write_image

RECORD = {
    "prompt": 'ein Kreis, "日本" ☂ \x00 and a tab\t',
    "call": {"num_inference_steps": 15, "guidance_scale": 4.0, "negative_prompt": "blau"},
    "methods": [{"name": "softpag", "heads": {"a.b": [0, 2]}}],
    "seed": 2**63 - 1,
    "size": [64, 64],
    "model": "shapes-sd3",
}


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8))


def test_record_and_pixels_come_back(tmp_path, image):
    write_image(tmp_path / "a.png", image, RECORD)
    assert read(tmp_path / "a.png") == RECORD
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(image))


def test_a_large_record_comes_back(tmp_path, image):
    write_image(tmp_path / "a.png", image, RECORD | {"prompt": "x" * 200_000})
    assert len(read(tmp_path / "a.png")["prompt"]) == 200_000


def test_viewers_find_the_usual_block(tmp_path, image):
    write_image(tmp_path / "a.png", image, RECORD | {"prompt": "a red circle"})
    text = Image.open(tmp_path / "a.png").text["parameters"]
    assert text == parameters(RECORD | {"prompt": "a red circle"})
    first, second, third = text.splitlines()
    assert (first, second) == ("a red circle", "Negative prompt: blau")
    assert third.startswith("Steps: 15, CFG scale: 4.0, Seed: 9223372036854775807, Size: 64x64")


def test_no_record_when_none_is_wanted(tmp_path, image):
    write_image(tmp_path / "a.png", image)
    assert Image.open(tmp_path / "a.png").text == {}
    with pytest.raises(ValueError, match="holds no diffusers_ext record"):
        read(tmp_path / "a.png")


def test_versions_name_what_matters():
    import torch

    found = versions()
    assert found["torch"] == torch.__version__ and found["diffusers_ext"] == diffusers_ext.__version__
    assert "diffusers" in found and "python" in found


def test_the_version_is_that_of_the_code_not_of_an_install(tmp_path, monkeypatch):
    info = tmp_path / "diffusers_ext-0.0.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: diffusers-ext\nVersion: 0.0.7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert metadata.version("diffusers-ext") == "0.0.7"
    assert versions()["diffusers_ext"] == diffusers_ext.__version__ != "0.0.7"
