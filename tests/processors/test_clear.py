"""CLEAR on complete pipelines equals explicit masks, and the plain model if the disk holds the grid."""

from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx

from ..close import alike as close
from ..hosts import HOSTS, built, host, nothing_changed
from ..kernels import oracles
from .masked import by_mask

IMAGES = [h.name for h in HOSTS if not h.video]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("cfg", [False, True])
def test_equal_to_an_explicit_mask(name, cfg):
    tiny, pipe = built(name)
    with dx.apply(pipe, by_mask(lambda grid: oracles.disk(grid, 2))):
        wanted = tiny.run(pipe, cfg=cfg, prompts=2)
    with dx.apply(pipe, dx.CLEAR(radius=2, backend="reference")):
        close(tiny.run(pipe, cfg=cfg, prompts=2), wanted)


@pytest.mark.parametrize("size", [(20, 28), (12, 60), (44, 36), (64, 4)])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_awkward_sizes(name, size):
    tiny = replace(host(name), size=dict(height=size[0], width=size[1]))
    pipe = tiny.build()
    with dx.apply(pipe, by_mask(lambda grid: oracles.disk(grid, 3))):
        wanted = tiny.run(pipe, steps=2)
    with dx.apply(pipe, dx.CLEAR(radius=3, backend="reference")):
        close(tiny.run(pipe, steps=2), wanted)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_disk_over_the_grid_is_the_plain_model_bit_for_bit(name, backend):
    tiny, pipe = built(name)
    plain = tiny.run(pipe, cfg=True)
    with dx.apply(pipe, dx.CLEAR(radius=50, backend=backend)) as session, nothing_changed("clear hides no"):
        assert torch.equal(tiny.run(pipe, cfg=True), plain)
    assert {s.why for s in session.report().sites if s.kind != "cross"} == {
        "clear hides nothing on this grid"
    }


def test_a_grid_of_one_full_tile_is_the_plain_model_bit_for_bit():
    tiny, pipe = built("sd3")
    plain = tiny.run(pipe)
    method = dx.CLEAR(2, reduce="block", backend="reference")
    with dx.apply(pipe, method) as session, nothing_changed("clear hides nothing"):
        assert torch.equal(tiny.run(pipe), plain)
    assert {s.why for s in session.report().sites} == {"clear hides nothing on this grid"}


@pytest.mark.parametrize("name", ["wan", "hunyuan-video", "mochi"])
def test_video_is_refused_and_left_as_it_was(name):
    tiny, pipe = built(name)
    plain = tiny.run(pipe)
    with (
        pytest.raises(dx.UnsupportedError, match=r"CLEAR needs one image.*Radial \(radial\) and GNA \(gna\)"),
        dx.apply(pipe, dx.CLEAR()),
    ):
        tiny.run(pipe)
    assert torch.equal(tiny.run(pipe), plain)


def test_a_radius_below_one_is_refused():
    with pytest.raises(dx.MethodError, match="1 to 2048 tokens, got 0"):
        dx.CLEAR(radius=0)
