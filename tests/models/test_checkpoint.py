"""A model's name is looked up once by each command, and everything known of the model comes from there."""

import json
import shutil

import pytest

import diffusers_ext as dx
from diffusers_ext.models import checkpoint
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import configs, fingerprint, marks, quick
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.world.suites import IMAGE_TASKS, VIDEO_TASKS

MODEL = "shapes-sd-turbo"


@pytest.mark.parametrize("command", [
    ["generate", "a red circle", "--seed", 0, "--method", "softpag"],
    ["compare", "a red circle"],
    ["eval", "--n", 1, "--method", "softpag"],
    ["tune", "--n", 1, "--grid", "scale=[1.0]"],
    ["reward", "--n", 1, "--prompts", 1, "--samples", 1],
])  # fmt: skip
def test_a_command_looks_a_name_up_once(cli, monkeypatch, tmp_path, command):
    seen, locate = [], checkpoint._locate
    monkeypatch.setattr(checkpoint, "_locate", lambda name: (seen.append(name), locate(name))[1])
    assert cli(*command, "-m", MODEL, "--device", "cpu", "--out", tmp_path / "out")[0] == 0
    assert seen == [MODEL]


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_shipped_models(name):
    model = Checkpoint.resolve(name)
    assert model.shipped and model.of_world and model.folder == model.home == catalogue.path(name)
    assert model.call == dict(catalogue.MODELS[name].call)
    assert set(model.tasks) == set(VIDEO_TASKS if name == "shapes-wan" else IMAGE_TASKS)
    assert model.card["sha256"] and model.preset.settings["softpag"]
    assert model.marks == marks(model.folder) and model.fingerprint == fingerprint(model.folder)
    assert model.quick_marks == {"weights": quick(model.folder), "configs": configs(model.folder)}


def test_a_folder_is_known_by_its_card(saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "mine")
    model = Checkpoint.resolve(folder)
    assert not model.shipped and not model.of_world and model.call == {} and model.preset is None
    with pytest.raises(dx.MethodError, match="No preset fits"):
        model.required_preset()
    (folder / "card.json").write_text(json.dumps({"call": {"height": 64}, "tasks": ["motion"], "sha256": {}}))
    model = Checkpoint.resolve(str(folder))
    assert model.of_world and model.call == {"height": 64} and model.tasks == ("motion",)


def test_a_hub_id_has_no_folder_and_nothing_is_fetched_for_it():
    model = Checkpoint.resolve("Wan-AI/Wan2.1-T2V-14B-Diffusers")
    assert model.folder is None and model.card == model.call == {} and not model.of_world
    assert model.tasks == IMAGE_TASKS and model.required_preset().name == "wan2.1"
    assert Checkpoint.unchecked("wan2.1").preset == model.preset


def test_load_puts_the_model_on_its_device_and_in_its_dtype():
    model = Checkpoint.resolve(MODEL)
    assert str(model.load("cpu", "bfloat16").dtype) == "torch.bfloat16"
    with pytest.raises(ValueError, match="--dtype must be one of float32, bfloat16, float16, got 'int8'"):
        model.load("cpu", "int8")
    with pytest.raises(ValueError, match="the device 'nope' cannot be used"):
        model.load("nope")
