"""Radial bands: reach by distance, densities of the published configurations, limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.masks.band import NEVER, Band, paper_reach, release_reach
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from .. import oracles
from . import seen


def test_reach_of_the_release():
    """3840 tokens a frame, decay 1: a band halves from 1024 on and thins out from frame distance 32."""
    reach = release_reach(128, 3840, 1.0)
    assert reach[:2] == (3839, 3839)
    assert set(reach[2:4]) == {1024} and set(reach[4:8]) == {512}
    assert set(reach[8:16]) == {256} and set(reach[16:32]) == {128}
    assert all(r == (128 if d % 2 == 0 else NEVER) for d, r in enumerate(reach[32:64], 32))
    assert all(r == (128 if d % 4 == 0 else NEVER) for d, r in enumerate(reach[64:], 64))


def test_reach_of_the_paper():
    """8 tokens a frame: the band halves with every octave, then every second, fourth ... frame is kept."""
    reach = paper_reach(40, 8)
    assert reach[:8] == (7, 7, 3, 3, 1, 1, 1, 1)
    assert set(reach[8:16]) == {0}
    assert all(r == (0 if d % 2 == 0 else NEVER) for d, r in enumerate(reach[16:32], 16))
    assert all(r == (0 if d % 4 == 0 else NEVER) for d, r in enumerate(reach[32:], 32))


def test_the_paper_on_hardware_keeps_a_block_and_thins_out_frames():
    reach = paper_reach(16, 512, floor=128)
    assert set(reach[2:4]) == {255} and set(reach[4:8]) == {127}
    assert all(r == (127 if d % 2 == 0 else NEVER) for d, r in enumerate(reach[8:], 8))


# frames, grid, decay, sink frames, token density, exact cover where it is known
TABLE = [
    (30, (48, 80), 0.95, 0, 0.2593),
    (33, (45, 80), 0.95, 0, 0.2533),
    (18, (48, 80), 0.2, 1, 0.2689),
    (20, (48, 80), 0.8, 1, 0.3472),
    (21, (45, 80), 0.2, 1, 0.2454),
    (61, (48, 80), 0.95, 0, 0.1601),
    (128, (48, 80), 0.95, 0, 0.0932),
]


@pytest.mark.parametrize("frames, size, decay, sink, density", TABLE)
def test_token_densities_of_the_published_configurations(frames, size, decay, sink, density):
    per_frame = size[0] * size[1]
    band = Band(release_reach(frames, per_frame, decay), size[1], sink)
    assert band.pairs((frames, *size)) / (frames * per_frame) ** 2 == pytest.approx(density, abs=0.51e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2), st.floats(0.1, 3.0))
def test_every_token_sees_its_neighbouring_frames_and_more_decay_never_hides(frames, h, w, sink, decay):
    grid = (frames, h, w)
    mask, wider = (
        seen(Band(release_reach(frames, h * w, x, floor=4), w, sink), grid) for x in (decay, decay * 1.5)
    )
    assert bool((wider | ~mask).all())
    frame = torch.arange(frames).repeat_interleave(h * w)
    assert bool(mask[(frame[:, None] - frame).abs() <= 1].all())


@pytest.mark.parametrize("size", [(3, 5), (8, 16)])
def test_below_128_tokens_a_frame_only_neighbouring_frames_differ_from_the_published_code(size):
    """The code drops frame distance 1 there; from 128 tokens on the rules are the same."""
    grid, per_frame = (4, *size), size[0] * size[1]
    ours = seen(Band(release_reach(4, per_frame, 0.3, floor=4), size[1], 1), grid)
    code = oracles.radial_code(grid, 0.3, 1, floor=4)
    frame = torch.arange(4).repeat_interleave(per_frame)
    differ = (frame[:, None] - frame).abs() == 1 if per_frame < 128 else torch.tensor(False)
    assert torch.equal(ours & ~differ, code & ~differ)
    sink = frame < 1
    assert torch.equal(ours & ~code, differ & ~sink.expand_as(ours))


def test_a_large_decay_is_dense_while_no_frame_is_dropped():
    grid = (32, 45, 50)  # 2250 tokens a frame, next power of two 4096: frames are dropped from distance 32 on
    assert Band(release_reach(32, 2250, 1e9), 50).pairs(grid) == (32 * 2250) ** 2
    assert Band(release_reach(33, 2250, 1e9), 50).pairs((33, 45, 50)) == (33 * 2250) ** 2
    assert Band(release_reach(34, 2250, 1e9), 50).pairs((34, 45, 50)) < (34 * 2250) ** 2


@pytest.mark.parametrize("h, w, strict, cover", [(27, 48, 0.414, 0.531), (36, 64, 0.357, 0.377)])
def test_the_exact_cover_costs_more_where_frames_are_no_multiple_of_a_block(h, w, strict, cover):
    """1296 tokens a frame against 2304, at decay 0.2 with a sink."""
    grid = (16, h, w)
    band = Band(release_reach(16, h * w, 0.2), w, sink_frames=1)
    assert RulePlanSpec(band, grid).stats.block_density == pytest.approx(cover, abs=0.51e-3)
    assert RulePlanSpec(band, grid, snap=True).stats.block_density == pytest.approx(strict, abs=0.51e-3)
