"""VQAScore: what is ours around the model of imscore, which is too large for a test without a GPU."""

import sys

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.rewards import VQAScore
from diffusers_ext.rewards.vqa import MEAN, square


def test_without_imscore_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "imscore", None)  # as if it were not installed
    reward = VQAScore()
    with pytest.raises(
        ImportError, match=r"optional package imscore .*pip install 'diffusers-ext\[rewards\]'"
    ):
        reward.score(torch.zeros(1, 3, 8, 8), ["a"])


@pytest.mark.parametrize(("height", "width"), [(4, 9), (9, 4), (5, 5)])
def test_pictures_become_square_in_the_middle(height, width):
    images = torch.rand(2, 3, height, width, requires_grad=True)
    found = square(images)
    side = max(height, width)
    assert found.shape == (2, 3, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    assert torch.equal(found[..., top : top + height, left : left + width], images)
    bars = torch.ones(side, side, dtype=torch.bool)
    bars[top : top + height, left : left + width] = False
    wanted = torch.tensor(MEAN)[:, None].expand(3, int(bars.sum()))
    assert torch.equal(found[0][:, bars], wanted)
    found.sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


def test_names():
    assert dx.rewards.VQAScore is VQAScore and VQAScore().dtype == torch.bfloat16


def test_published_weights_prefer_the_right_prompt(online):
    pytest.importorskip("imscore")
    red = torch.zeros(1, 3, 336, 336)
    red[:, 0] = 1
    good, bad = VQAScore().score(red.expand(2, -1, -1, -1), ["a plain red picture", "a horse at the sea"])
    assert 0 < bad < good < 1
