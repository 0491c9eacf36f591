"""CLEAR on complete pipelines equals explicit masks, and the plain model if the disk holds the grid."""

from dataclasses import replace

import pytest

import diffusers_ext as dx

from ..hosts import HOSTS, host
from ..kernels import oracles
from .masked import by_mask
from .promises import hides_nothing, is_refused, makes_the_pictures_of

IMAGES = [h.name for h in HOSTS if not h.video]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("cfg", [False, True])
def test_equal_to_an_explicit_mask(name, cfg):
    oracle = by_mask(lambda grid: oracles.disk(grid, 2))
    makes_the_pictures_of(oracle, dx.CLEAR(2, backend="reference"), host(name), cfg=cfg, prompts=2)


@pytest.mark.parametrize("size", [(20, 28), (12, 60), (44, 36), (64, 4)])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_awkward_sizes(name, size):
    tiny = replace(host(name), size=dict(height=size[0], width=size[1]))
    oracle = by_mask(lambda grid: oracles.disk(grid, 3))
    makes_the_pictures_of(oracle, dx.CLEAR(radius=3, backend="reference"), tiny, steps=2)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_disk_over_the_grid_is_the_plain_model_bit_for_bit(name, backend):
    hides_nothing(dx.CLEAR(radius=50, backend=backend), host(name), cfg=True)


def test_a_grid_of_one_full_tile_is_the_plain_model_bit_for_bit():
    hides_nothing(dx.CLEAR(2, reduce="block", backend="reference"), host("sd3"))


@pytest.mark.parametrize("name", ["wan", "hunyuan-video", "mochi"])
def test_video_is_refused_and_left_as_it_was(name):
    is_refused(dx.CLEAR(), host(name), r"CLEAR needs one image.*Radial \(radial\) and GNA \(gna\)")


def test_a_radius_below_one_is_refused():
    with pytest.raises(dx.MethodError, match="1 to 2048 tokens, got 0"):
        dx.CLEAR(radius=0)
