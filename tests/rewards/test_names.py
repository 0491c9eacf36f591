"""Rewards by name, as the command line has them."""

import inspect
import re

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.commands.reward import reward
from diffusers_ext.rewards import NoiseAware, Reward, ShapesCLIP
from diffusers_ext.rewards.names import REWARDS, load, named

from .models import clip_folder


def test_every_reward_with_weights_has_a_name():
    kinds = {
        kind for kind in vars(dx.rewards).values() if isinstance(kind, type) and issubclass(kind, Reward)
    }
    made = {dx.rewards.CallableReward, NoiseAware, Reward}  # of a function, of a folder, of nothing
    assert set(REWARDS.values()) == kinds - made
    assert all(type(named(name)) is kind and named(name).name == name for name, kind in REWARDS.items())


def test_the_help_of_the_command_names_them():
    (option,) = inspect.signature(reward).parameters["name"].annotation.__metadata__
    assert [name for name in re.findall(r"[\w-]+", option.help) if name in REWARDS] == list(REWARDS)


def test_folders(tmp_path):
    base = named(str(clip_folder(tmp_path / "clip")))
    assert type(base) is ShapesCLIP and base.place == str(tmp_path / "clip")
    shift = {"vision_model.post_layernorm.bias": torch.ones(128)}
    NoiseAware(ShapesCLIP(), {0.5: shift}).save_pretrained(tmp_path / "aware")
    assert type(named(str(tmp_path / "aware"))) is NoiseAware


def test_unknown_names():
    with pytest.raises(
        ValueError, match=r"unknown reward 'clip'; it is a folder, or one of shapes-clip, clip-"
    ):
        named("clip")


def test_weights_that_cannot_be_loaded_name_the_reward(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match=r"the weights of the reward pick-score cannot be loaded \(.*\); fetch"):
        load(dx.rewards.PickScore(tmp_path / "none"), "pick-score")
    load(ShapesCLIP(), "shapes-clip")
