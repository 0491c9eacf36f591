"""Whole tiles by shares: against pairs counted in masks, and where the rule loses nothing."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.geometry import PAD, TEXT
from diffusers_ext.kernels.masks.box import Window
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.recipe import Recipe

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


@settings(max_examples=100, deadline=None)
@given(rules(), edges, edges, st.integers(0, 5), st.booleans())
def test_against_pairs_counted_in_the_mask(rule, q_tile, k_tile, text, text_rows):
    grid, rule, mask = rule
    recipe = Recipe(rule, grid, text, prod(q_tile), prod(k_tile), q_tile, k_tile, True, text_rows, snap=True)
    plan, wanted = recipe.build(), oracles.by_third(mask, grid, q_tile, k_tile)
    touched, full = oracles.listed(plan)
    nq, nk = wanted.shape
    assert torch.equal(touched[:nq, :nk], wanted)
    assert touched[:nq].any(1).all(), "no tile of queries is left without keys"
    assert touched[nq:].all() and touched[:, nk:].all(), "text sees all and is seen by all"
    padded = torch.nn.functional.pad(plan.k_coord, (0, -len(plan.k_coord) % plan.block_k), value=PAD)
    whole = (padded.view(-1, plan.block_k) != PAD).all(1)
    assert torch.equal(full, touched & whole), "nothing but padding is checked"
    assert ((plan.k_coord == TEXT).sum(), plan.pairs) == (text, recipe.pairs)
    assert recipe.survey().visited == plan.visited


@pytest.mark.parametrize("window, stride", [((6, 24, 24), (2, 8, 8)), ((2, 24, 40), (2, 8, 8))])
def test_windows_of_whole_tiles_lose_nothing(window, stride):
    """Sliding tile attention: the plan that the exact cover has, too."""
    grid, tile = (8, 48, 64), (2, 8, 8)
    exact = Recipe(Window(grid, window, stride), grid, 0, 128, 128, tile, tile, True)
    snapped = Recipe(Window(grid, window, stride), grid, 0, 128, 128, tile, tile, True, snap=True)
    assert exact.survey().full_share == snapped.survey().full_share == 1.0
    assert torch.equal(exact.bitmap(), snapped.bitmap())


@pytest.mark.parametrize("radius", [8, 16, 32])
def test_the_density_lies_between_those_of_the_disk_and_of_its_cover(radius):
    grid, tile = (1, 128, 128), (1, 8, 16)
    facts = Disk(radius), grid, 0, 128, 128, tile, tile, True
    exact, snapped = (Recipe(*facts, snap=snap).survey().block_density for snap in (False, True))
    assert 0.69 * Recipe(*facts).pairs / (128 * 128) ** 2 < snapped < 0.77 * exact
