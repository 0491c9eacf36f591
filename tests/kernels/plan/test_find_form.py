"""For which plans the coordinates of a token follow from those of the first token of its block."""

import itertools

import pytest
import torch

from diffusers_ext.kernels.masks.band import Band
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec
from diffusers_ext.kernels.plan.form import LOOKED_UP, BlockForm
from diffusers_ext.kernels.plan.plan import from_mask
from diffusers_ext.kernels.plan.spec import RulePlanSpec

TILES = dict(q_tile=(1, 4, 4), k_tile=(2, 2, 4), text_rows=False)
WINDOW = Window((4, 6, 9), (2, 3, 4))


def form(rule, grid, text=0, **rest):
    return RulePlanSpec(rule, grid, text, 16, 16, **rest).build().form


def test_tiles_that_are_filled_up_or_divide_the_grid():
    wanted = BlockForm(True, True, False, (4, 4), (2, 4), (6, 9))
    assert form(WINDOW, (4, 6, 9), pad=True, **TILES) == wanted
    assert form(Disk(3), (4, 8, 12), **TILES) == BlockForm(True, True, False, (4, 4), (2, 4), (8, 12))
    assert form(Disk(3), (1, 8, 16)) == BlockForm(True, True, False, (1, 16), (1, 16), (8, 16))  # rows


def test_tiles_that_the_grid_cuts_off_and_runs_across_rows_are_looked_up():
    assert form(WINDOW, (4, 6, 9), **TILES) == LOOKED_UP
    assert form(Disk(3), (1, 6, 9)) == LOOKED_UP
    assert form(Disk(3), (3, 8, 12), pad=True, **TILES) == LOOKED_UP  # half of the last tile is no frame
    assert form(Disk(3), (4, 8, 12), 5, q_tile=(1, 4, 4), k_tile=(2, 2, 4)) == LOOKED_UP  # text asks, too
    assert from_mask(torch.ones(9, 9).tril().bool(), 4, 4).form == LOOKED_UP
    assert form(Band((9, 5), 3), (2, 4, 3)) == LOOKED_UP  # a block is longer than a frame


def test_text_is_irregular_only_where_it_is_checked():
    assert not form(Disk(3), (4, 8, 12), 32, **TILES).irregular
    assert form(Disk(3), (4, 8, 12), 33, **TILES).irregular
    assert form(Disk(3), (4, 8, 12), 32, masked_text=True, **TILES).irregular
    assert form(Disk(3), (4, 8, 12), 32, extra_keys=4, **TILES).irregular


@pytest.mark.parametrize("text", [0, 16, 21])
def test_bands_are_irregular_where_frames_do_not_fill_blocks(text):
    rest = dict(text_rows=False)
    assert form(Band((9, 5, 2), 8), (3, 4, 8), text, **rest).irregular == (text == 21)
    assert form(Band((9, 5, 2), 6), (3, 4, 6), text, **rest).irregular


def test_plans_without_a_rule():
    assert not form(Window((1, 8, 8), (1, 8, 8)), (1, 8, 8), 16, text_rows=False).checked
    facts = dict(q_tile=(1, 4, 4), k_tile=(1, 4, 4), keep=0.5, text_rows=False)
    assert DynamicPlanSpec((1, 8, 8), 16, **facts).build().form == BlockForm(checked=False)
    assert DynamicPlanSpec((1, 7, 8), 16, **facts).build().form == LOOKED_UP


def test_numbers_give_the_form_back():
    for flags in itertools.product([False, True], repeat=3):
        wanted = BlockForm(*flags, (2, 3), (4, 5), (6, 7))
        assert BlockForm.of(wanted.numbers) == wanted


def test_a_half_of_a_tile_is_a_box():
    halves = dict(block_k=8, pad=True, text_rows=False)
    standing = RulePlanSpec(Disk(3), (1, 9, 11), 0, 16, q_tile=(1, 8, 2), k_tile=(1, 8, 2), **halves)
    assert standing.build().form == BlockForm(True, True, False, (8, 2), (4, 2), (9, 11))
    deep = RulePlanSpec(WINDOW, (4, 6, 9), 0, 16, q_tile=(2, 2, 4), k_tile=(2, 2, 4), **halves)
    assert deep.build().form == BlockForm(True, True, False, (2, 4), (2, 4), (6, 9))
    odd = RulePlanSpec(Disk(3), (1, 9, 12), 0, 12, q_tile=(1, 3, 4), k_tile=(1, 3, 4), **halves)
    assert odd.build().form == LOOKED_UP, "8 of 3 x 4 tokens are two rows, but 4 are left"


@pytest.mark.parametrize("grid", [(1, 8, 12), (1, 9, 11), (2, 8, 8), (3, 5, 8), (4, 6, 9)])
@pytest.mark.parametrize("tile", [None, (1, 4, 4), (1, 8, 2), (2, 2, 4)])
@pytest.mark.parametrize("pad, block_k, text", [(True, 16, 0), (True, 8, 5), (False, 16, 5)])
def test_a_plan_that_is_not_built_says_the_same(grid, tile, pad, block_k, text):
    sides = {1: (1, 3, 3)}.get(grid[0], (2, 3, 3))
    for rule in (Disk(3), Window(grid, sides), Band((9, 5, 2, 1)[: grid[0]], grid[2])):
        spec = RulePlanSpec(rule, grid, text, 16, block_k, tile, tile, pad, text_rows=False)
        form = spec.build().form
        assert not form.checked or form.computed == spec.computed
