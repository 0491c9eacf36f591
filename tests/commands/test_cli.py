"""Test the installed command line, in this process for speed: help, lists and their texts."""

import json
import subprocess
import sys

import pytest

import diffusers_ext
from diffusers_ext.cli import main
from diffusers_ext.zoo import catalogue

CALL = ["--steps", "1"]


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_help_imports_nothing_heavy():
    heavy = ["torch", "diffusers", "transformers", "numpy", "scipy", "PIL", "matplotlib", "rich"]
    code = (
        "import sys\n"
        "from diffusers_ext.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "compare" in out and out.splitlines()[-1] == "[]"


def test_version(cli):
    assert cli("--version") == (0, f"diffusers-ext {diffusers_ext.__version__}\n", "")


def test_installed_command():
    from importlib.metadata import entry_points

    (found,) = entry_points(group="console_scripts", name="diffusers-ext")
    assert found.load() is main


def test_methods(cli):
    code, out, _ = cli("methods")
    assert code == 0 and "softpag: " in out and "image_rows" in out
    found = {method["name"]: method["settings"] for method in json.loads(cli("methods", "--json")[1])}
    scale = next(s for s in found["softpag"] if s["name"] == "scale")
    assert (scale["type"], scale["default"], scale["low"]) == ("number", 1.0, 0.0)
    assert all(s["help"] and s["unit"] for settings in found.values() for s in settings)


def test_families(cli):
    found = json.loads(cli("families", "--json")[1])
    known = {
        "UNet2DConditionModel": "StableDiffusionXLPipeline",
        "SD3Transformer2DModel": "StableDiffusion3Pipeline",
        "FluxTransformer2DModel": "FluxPipeline",
        "WanTransformer3DModel": "WanPipeline",
        "HunyuanVideoTransformer3DModel": "HunyuanVideoImageToVideoPipeline",
        "MochiTransformer3DModel": "MochiPipeline",
    }
    for cls, pipeline in known.items():
        assert pipeline in found[cls]["pipelines"]
    assert not any("Framepack" in name for facts in found.values() for name in facts["pipelines"])
    assert all(name in cli("families")[1] for name in known)


def test_doctor(cli):
    code, out, _ = cli("doctor")
    assert code == 0
    assert "attention back-ends" in out and "shapes-sd3" in out
    sections = {f["section"] for f in json.loads(cli("doctor", "--json")[1])}
    assert sections == {"versions", "devices", "attention back-ends", "models"}


@pytest.mark.parametrize(
    "words", [["--samples", 0], ["--minutes", "nan"], ["--batch", 0], ["--threads", 0], ["--start", "nope"]]
)
def test_a_run_that_is_refused_leaves_no_folder(refused, tmp_path, words):
    assert "; " in refused("train", "shapes-wan", *words, "--out", tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_train_bad_input(refused, tmp_path):
    line = refused("train", "shapes-sd4", "--out", tmp_path)
    assert line.rstrip().endswith("clear, npnet"), "those that are no models of the zoo"
    assert all(name in line for name in catalogue.MODELS)
    assert "threads must be at most" in refused(
        "train", "shapes-sd3", "--threads", 100_000, "--out", tmp_path
    )
    assert "threads must be at least 1, got 0" in refused(
        "train", "shapes-sd3", "--threads", 0, "--out", tmp_path
    )
    assert "whole number" in refused("train", "shapes-sd3", "--seed", "x", "--out", tmp_path)
    nowhere = refused("train", "shapes-wan", "--start", "shapes-wam", "--out", tmp_path)
    assert "--start takes a folder or one of shapes-sd3, " in nowhere and "got 'shapes-wam'" in nowhere
    for name in ("shapes-sd-turbo", "clear", "shapes-vae"):
        line = refused("train", name, "--start", "shapes-sd", "--out", tmp_path)
        assert "starts from " in line and line.rstrip().endswith("; leave it out")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "at least one of transformer, text_encoder" in refused(
        "train", "shapes-wan", "--start", empty, "--out", tmp_path
    )
