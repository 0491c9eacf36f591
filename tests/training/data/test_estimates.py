"""Estimates end at the finished picture, prompts are train-like, and shards hold what was drawn."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.rewards import CallableReward
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.training.data import estimates
from diffusers_ext.training.data.estimates import Estimates, captions, trajectories
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.suites import split_of
from tests.close import alike

CALL = {**catalogue.MODELS["shapes-sd3"].call, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def pipe():
    found = dx.load("shapes-sd3")
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture
def few(monkeypatch):
    for name, value in (("SHARD", 8), ("TOGETHER", 4), ("IMAGES", 2)):
        monkeypatch.setattr(estimates, name, value)


def redness(images, prompts):
    return images[:, 0].mean((1, 2))


def test_the_last_estimate_is_the_finished_picture(pipe):
    host = HostCall(pipe, ["a red circle", "a blue star"], torch.Generator().manual_seed(0), **CALL)
    made = trajectories(host, 2)
    assert made.estimates.shape == (4, 3, 4, 16, 16) and made.levels[0] == pytest.approx(1.0)
    assert list(made.levels) == sorted(made.levels, reverse=True)
    alike(made.estimates[:, -1], made.ends)
    with torch.no_grad():
        assert torch.equal(made.ends, host.run(host.draw(2)))


def test_prompts_are_train_like_and_of_every_kind():
    found = captions(0, 60)
    assert {split_of(parse(text)) for text in found} == {"train-like"}
    assert len(set(found)) > 50 and {parse(text).task for text in found} >= {"counting", "position"}
    assert found == captions(0, 60) != captions(1, 60)


def test_shards_hold_the_pictures_with_the_score_of_their_end(pipe, few, tmp_path):
    data = Estimates(pipe, CALL, CallableReward(redness), tmp_path, 0, (0, 2), 4)
    rows = data.draw(3, torch.Generator().manual_seed(0))
    assert rows["pictures"].shape == (6, 2, 3, 64, 64) and rows["pictures"].dtype == torch.uint8
    first, second = rows["prompt"].view(3, 2).T
    assert torch.equal(first, second) and len(set(first.tolist())) == 3
    # the estimate of the last step is the finished picture, up to the rounding to bytes
    torch.testing.assert_close(redness(rows["pictures"][:, 1] / 255, None), rows["score"], rtol=0, atol=2e-3)
    again = Estimates(pipe, CALL, CallableReward(redness), tmp_path / "again", 0, (0, 2), 4)
    assert torch.equal(again.draw(3, torch.Generator().manual_seed(0))["score"], rows["score"])


def test_levels_are_those_of_the_call(pipe, tmp_path):
    data = Estimates(pipe, CALL, CallableReward(redness), tmp_path, 0, (1, 2), 64)
    host = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **CALL)
    assert data.levels() == pytest.approx(trajectories(host, 1).levels[1:])


def test_prompts_fill_shards(pipe, tmp_path):
    with pytest.raises(ValueError, match="64 prompts at a time, got 100; take a multiple"):
        Estimates(pipe, CALL, CallableReward(redness), tmp_path, 0, (1,), 100)
