"""A picture gives back the settings that it was made with; no file can do harm."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_ext.app import pictures, restore
from diffusers_ext.app.asked import Asked
from diffusers_ext.app.engine import Done, Engine
from diffusers_ext.app.models import Models
from diffusers_ext.outputs.record import read, write_image

TURBO = "shapes-sd-turbo"


@pytest.fixture(scope="module")
def engine():
    return Engine(Models())


def made(engine, asked, folder):
    work = engine.run("a", lambda control, place: pictures.make(control, place, asked, folder))
    return next(event.result for event in work if isinstance(event, Done))


@pytest.fixture(scope="module")
def picture(engine, tmp_path_factory):
    asked = Asked.of(
        {
            "prompt": "a red circle and a <b>blue</b> square",
            "model": TURBO,
            "methods": [{"name": "nag", "scale": 9.0}, {"name": "structured"}],
            "call": {"num_inference_steps": 2},
            "seed": 2**62 + 1,
        }
    )
    return made(engine, asked, tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_restores_what_makes_it_again(engine, picture, tmp_path, suffix):
    path = tmp_path / f"renamed{suffix}"
    write_image(path, Image.open(picture.path), read(picture.path))
    asked = restore.read(path, engine.models, "shapes-sd3")
    assert asked.model == TURBO and asked.seed == 2**62 + 1
    assert asked.call == {"num_inference_steps": 2}
    again = made(engine, asked, tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(again.path)), np.asarray(Image.open(picture.path)))


def test_a_block_of_another_tool_restores_what_is_known_here(engine, tmp_path):
    info = PngInfo()
    facts = "Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 42, Size: 512x512, Model: dreamy"
    info.add_text("parameters", f"a castle\nNegative prompt: blurry\n{facts}")
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png", pnginfo=info)
    asked = restore.read(tmp_path / "other.png", engine.models, TURBO)
    call = {"num_inference_steps": 20, "guidance_scale": 7.5, "negative_prompt": "blurry"}
    assert asked == Asked("a castle", TURBO, (), call, 42)


def with_record(path, record):
    info = PngInfo()
    info.add_itxt("diffusers_ext", record if isinstance(record, str) else json.dumps(record))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


RECORD = {"prompt": "a red circle", "seed": 1, "model": TURBO, "methods": [], "call": {}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "/etc"}, "unknown model"),
        ({"model": "someone/model"}, "loads no models of the Hub"),
        ({"model": 7}, "was changed"),
        ({"methods": "softpag"}, "was changed"),
        ({"methods": [{"name": "best-of-n", "n": 4}]}, "made by a search"),
        ({"methods": [{"name": "softpag", "heads": "/etc/passwd"}]}, "may name a file on the command line"),
        ({"methods": [{"name": "softpag", "evil": 1}]}, "no setting 'evil'"),
        ({"methods": [7]}, "a method is a table"),
        ({"call": {"latents": [1]}}, "latents, which this page does not set"),
        ({"call": []}, "was changed"),
        ({"seed": -7}, "seed must be a whole number"),
        ({"prompt": None}, "the prompt is a text"),
        ({"prompt": "a\0"}, "NUL"),
    ],
)
def test_a_hostile_record_is_one_sentence(engine, tmp_path, change, sentence):
    path = with_record(tmp_path / "a.png", RECORD | change)
    with pytest.raises(ValueError, match=sentence) as caught:
        restore.read(path, engine.models, TURBO)
    assert str(tmp_path) not in str(caught.value) and "\n" not in str(caught.value)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path):
    """A small file that says it has 60000 x 60000 pixels, and holds a record."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    text = b"diffusers_ext\0\0\0\0\0" + json.dumps(RECORD).encode()
    parts = [chunk(b"IHDR", head), chunk(b"iTXt", text), chunk(b"IDAT", zlib.compress(b"\0" * 10**6))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


def test_pixels_of_a_bomb_are_never_decoded(engine, tmp_path):
    assert restore.read(bomb(tmp_path / "bomb.png"), engine.models, "shapes-sd").model == TURBO


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<svg onload=alert(1)>"),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 50),
        lambda path: Image.new("CMYK", (8, 8)).save(path, format="JPEG"),
        lambda path: with_record(path, "{"),
        lambda path: with_record(path, "[" * 10**5),
    ],
)
def test_other_files_are_one_sentence_without_the_path_of_the_server(engine, tmp_path, write):
    write(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png") as caught:
        restore.read(tmp_path / "x.png", engine.models, TURBO)
    assert str(tmp_path) not in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_the_operator_is_known_by_its_label(saved_model, tmp_path):
    """No path of the server is in a picture, and the picture still finds its model."""
    engine = Engine(Models((str(saved_model),)))
    found = made(engine, Asked("a red circle", "tiny-sd3", (), {"num_inference_steps": 1}, 3), tmp_path)
    assert str(saved_model) not in found.path.read_bytes().decode("latin-1")
    assert restore.read(found.path, engine.models, "shapes-sd").model == "tiny-sd3"
    record = read(found.path) | {"model": str(saved_model)}  # as the command line writes it
    shutil.copy(with_record(tmp_path / "own.png", record), tmp_path / "copy.png")
    assert restore.read(tmp_path / "copy.png", engine.models, "shapes-sd").model == "tiny-sd3"
