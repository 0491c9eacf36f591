"""The published block rule: its vector, its table, and canvases filled one pair of frames at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.band_blocks import band_blocks
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from .. import oracles


def test_the_vector_of_eight_frames_of_one_block():
    band = Band(release_reach(8, 128, 0.5), 128, sink_frames=1)
    rows = ["".join(map(str, row)) for row in band_blocks(band, 8, 128, 128).int().tolist()]
    assert " ".join(rows) == "11101000 11110100 11111010 11111101 10111110 11011111 10101111 10010111"


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 7), st.integers(1, 3), st.integers(1, 11), st.integers(0, 2), st.integers(2, 9), st.data()
)
def test_against_filled_canvases(frames, h, w, sink, block, data):
    decay = data.draw(st.sampled_from([0.05, 0.3, 1.0]))
    band = Band(release_reach(frames, h * w, decay, floor=2), w, sink)
    mask = oracles.radial_release((frames, h, w), decay, sink, floor=2)
    wanted = oracles.strict(mask, frames, h * w, block)
    assert torch.equal(band_blocks(band, frames, h * w, block), wanted)


TABLE = [
    (30, (48, 80), 0.95, 0, 0.2746, 3.64, True),
    (33, (45, 80), 0.95, 0, 0.2702, 3.70, False),
    (18, (48, 80), 0.2, 1, 0.2871, 3.48, False),
    (20, (48, 80), 0.8, 1, 0.3525, 2.84, False),
    (21, (45, 80), 0.2, 1, 0.2622, 3.81, False),
    (61, (48, 80), 0.95, 0, 0.1798, 5.56, True),
]


@pytest.mark.parametrize("frames, size, decay, sink, density, speed, symmetric", TABLE)
def test_block_densities_of_the_published_configurations(
    frames, size, decay, sink, density, speed, symmetric
):
    per_frame = size[0] * size[1]
    band = Band(release_reach(frames, per_frame, decay), size[1], sink)
    blocks = band_blocks(band, frames, per_frame, 128)
    whole = frames * per_frame // 128  # the published numbers leave a last, short block out
    assert blocks[:whole, :whole].float().mean().item() == pytest.approx(density, abs=0.51e-4)
    assert torch.equal(blocks, blocks.T) == symmetric
    stats = RulePlanSpec(band, (frames, *size), snap=True).stats
    assert stats.visited == int(blocks.sum())
    assert (frames * per_frame) ** 2 / stats.work == pytest.approx(speed, abs=0.51e-2)


def test_text_is_kept_and_a_short_last_block_is_never_full():
    band = Band(release_reach(5, 40, 0.3, floor=8), 8)
    plan = RulePlanSpec(band, (5, 5, 8), text=7, block_q=16, block_k=16, snap=True).build()
    touched, full = oracles.listed(plan)
    video = 5 * 40 // 16
    assert bool(touched[video:].all()) and bool(touched[:, video:].all())
    assert torch.equal(full[:, :-1], touched[:, :-1]) and not full[:, -1].any()
