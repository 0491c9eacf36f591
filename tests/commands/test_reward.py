"""The command `reward` refuses what it cannot do before it does anything."""

import json
import sys

import pytest
import torch

from diffusers_ext.outputs.claim import claim
from diffusers_ext.rewards import NoiseAware, ShapesCLIP

SMALL = ["--suite", "tuning", "--prompts", 1, "--samples", 1, "--steps", 1, "--device", "cpu"]


@pytest.mark.parametrize("option", ["--n", "--prompts", "--samples"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_name_their_option(refused, tmp_path, option, value):
    said = refused("reward", option, value, "--out", tmp_path / "out")
    assert said.startswith(f"error: {option} is the number of ") and f"got {value};" in said
    assert not (tmp_path / "out").exists()


def test_an_unknown_reward_is_refused(refused, tmp_path):
    said = refused("reward", "--reward", "nobody", "--out", tmp_path / "out")
    assert "unknown reward 'nobody'; it is a folder, or one of shapes-clip" in said


def test_a_missing_package_is_named_before_any_work(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imscore", None)  # as if it were not installed
    said = refused("reward", "--reward", "vqa-score", "--out", tmp_path / "out")
    assert "optional package imscore" in said and "pip install 'diffusers-ext[rewards]'" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_has_one_writer(refused, saved_model, tmp_path):
    with claim(tmp_path, "eval"):
        said = refused("reward", *SMALL, "--n", 2, "--model", saved_model, "--out", tmp_path)
    assert "is being written to by 'eval'" in said
    assert not list(tmp_path.iterdir())


def test_a_noise_aware_reward_is_scored_on_clean_pictures(cli, saved_model, tmp_path):
    shift = {"vision_model.post_layernorm.bias": torch.ones(128)}
    NoiseAware(ShapesCLIP(), {0.5: shift}).save_pretrained(tmp_path / "aware")
    found = {}
    for name in ("shapes-clip", tmp_path / "aware"):
        command = ["reward", "--reward", name, *SMALL, "--n", 2, "--model", saved_model]
        code, _, err = cli(*command, "--out", tmp_path / "out")
        assert code == 0 and f"then draws 6 pictures with {saved_model}: --n, --prompts and" in err
        found[name] = json.loads((tmp_path / "out" / "tuning.json").read_text())
    plain, aware = found.values()
    assert plain["weights"] != aware["weights"]
    assert plain["drawn"] == aware["drawn"] and plain["painted"] == aware["painted"]
