"""Tiles kept by shares, against pairs counted in masks, and cases in which the rule loses nothing."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.geometry import PAD, TEXT
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from .. import oracles

edges = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5))


@st.composite
def rules(draw):
    """Disks and windows without dilation, with their brute-force masks."""
    if draw(st.booleans()):
        grid, radius = (1, draw(st.integers(1, 9)), draw(st.integers(1, 9))), draw(st.integers(1, 9))
        return grid, Disk(radius), oracles.disk(grid, radius)
    grid = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    window = tuple(draw(st.integers(min(2, n), n)) for n in grid)
    stride = tuple(draw(st.integers(1, w)) for w in window)
    return grid, Window(grid, window, stride), oracles.box(grid, window, stride)


@settings(max_examples=50, deadline=None)
@given(rules(), edges, edges, st.integers(0, 5), st.booleans())
def test_against_pairs_counted_in_the_mask(rule, q_tile, k_tile, text, text_rows):
    grid, rule, mask = rule
    spec = RulePlanSpec(
        rule, grid, text, prod(q_tile), prod(k_tile), q_tile, k_tile, True, text_rows, snap=True
    )
    plan, wanted = spec.build(), oracles.by_most(mask, grid, q_tile, k_tile)
    touched, full = oracles.listed(plan)
    nq, nk = wanted.shape
    assert torch.equal(touched[:nq, :nk], wanted)
    assert touched[:nq].any(1).all(), "no tile of queries is left without keys"
    assert touched[nq:].all() and touched[:, nk:].all(), "text sees all and is seen by all"
    padded = torch.nn.functional.pad(plan.k_coord, (0, -len(plan.k_coord) % plan.block_k), value=PAD)
    whole = (padded.view(-1, plan.block_k) != PAD).all(1)
    assert torch.equal(full, touched & whole), "nothing but padding is checked"
    assert ((plan.k_coord == TEXT).sum(), plan.pairs) == (text, spec.pairs)
    assert spec.stats.visited == plan.visited


@pytest.mark.parametrize("window, stride", [((6, 24, 24), (2, 8, 8)), ((2, 24, 40), (2, 8, 8))])
def test_windows_of_full_tiles_lose_nothing(window, stride):
    """Sliding tile attention: the plan that the exact cover has, too."""
    grid, tile = (8, 48, 64), (2, 8, 8)
    exact = RulePlanSpec(Window(grid, window, stride), grid, 0, 128, 128, tile, tile, True)
    snapped = RulePlanSpec(Window(grid, window, stride), grid, 0, 128, 128, tile, tile, True, snap=True)
    assert exact.stats.full_share == snapped.stats.full_share == 1.0
    assert torch.equal(exact.bitmap(), snapped.bitmap())


@pytest.mark.parametrize("radius", [2, 8, 9, 12, 16])
def test_nine_tenths_of_what_each_tile_sees_are_kept_in_fewer_blocks_than_the_cover_has(radius):
    grid, tile = (1, 48, 96), (1, 8, 16)
    facts = Disk(radius), grid, 0, 128, 128, tile, tile, True
    exact, snapped = (RulePlanSpec(*facts, snap=snap) for snap in (False, True))
    y, x = snapped.q_order // 96, snapped.q_order % 96
    seen = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < radius**2
    counts = seen.view(36, 128, 36, 128).sum((1, 3))
    kept = snapped.bitmap()
    assert ((counts * kept).sum(1) >= 0.9 * counts.sum(1)).all()
    assert kept.sum() < exact.bitmap().sum() and exact.bitmap()[kept].all()
    if radius >= 8:
        middle = 2 * 6 + 2
        assert kept[middle, [middle - 6, middle - 1, middle + 1, middle + 6]].all(), "no tile stands alone"
