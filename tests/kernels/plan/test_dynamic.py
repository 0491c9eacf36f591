"""A data-dependent plan has known blocks and order, blocks that are always kept, and honest counts."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.geometry import PAD, TEXT
from diffusers_ext.kernels.masks.neighbours import Neighbours
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec
from diffusers_ext.kernels.plan.spec import RulePlanSpec

WAN = (21, 45, 80)
TILE = (2, 8, 8)


@pytest.mark.parametrize(
    "keep, blocks", [(0.25, 147), (0.2, 118), (0.1, 59), (0.0, 1), (0.001, 1), (1.0, 591)]
)
def test_blocks_that_are_kept_of_a_wan_video(keep, blocks):
    """75 600 tokens are 590.6 blocks; the share is rounded down, and nothing is an empty row."""
    facts = DynamicPlanSpec(WAN, 0, TILE, TILE, keep, touching=False)
    assert (facts.key_blocks, facts.least) == (591, blocks)


def test_a_share_is_not_lost_to_rounding():
    """0.29 * 100 is 28.999..."""
    assert DynamicPlanSpec((1, 10, 10), 0, (1, 1, 1), (1, 1, 1), 0.29).least == 29


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7)), st.integers(0, 9),
    st.sampled_from([(1, 2, 2), (2, 2, 2), (1, 1, 8)]), st.sampled_from([0.0, 0.3, 1.0]), st.booleans(),
)  # fmt: skip
def test_the_plan_lists_every_block_and_text_starts_one(grid, text, tile, keep, touching):
    facts = DynamicPlanSpec(grid, text, tile, tile, keep, touching)
    plan, size = facts.build(), math.prod(tile)
    n = math.prod(grid)
    vision = -(-n // size)
    assert plan.s_q == n and plan.s_kv == (-(-n // size) * size + text if text else n)
    assert (plan.col.view(plan.rows, -1) >> 1).tolist() == [list(range(-(-plan.s_kv // size)))] * plan.rows
    blocks = torch.nn.functional.pad(plan.k_coord, (0, -plan.s_kv % size), value=PAD).view(-1, size)
    assert ((plan.entries & 1).bool() == (blocks != PAD).all(1)).all()
    assert bool((blocks[:vision] != TEXT).all()) and bool((blocks[vision:] < 0).all())
    assert plan.counts.tolist() == (blocks[:vision] != PAD).sum(1).tolist() and int(plan.counts.sum()) == n
    assert torch.equal(facts.k_order[:n], geometry.tile_major(grid, tile))


def test_without_neighbours_counts_are_exact():
    """31 blocks of 4, the last of 1 token, and 7 text tokens in 2 blocks; 9 columns are kept at least, of
    which the text can be one.
    """
    facts = DynamicPlanSpec((1, 11, 11), 7, (1, 2, 2), (1, 2, 2), 0.3, touching=False)
    found = facts.stats
    # 30 rows of grid tokens, then 2 that hold text and see all
    assert (found.s_q, found.s_kv, found.visited) == (128, 131, 30 * (8 + 2) + 2 * 33)
    assert facts.pairs == 121 * (32 + 7) + 7 * 128
    assert found.visited / (32 * 33) == found.block_density
    # text is cut off in every row; the ragged block is in 8 of 31 rows on average, and in both text rows
    assert found.full == found.visited - 32 - round(30 * 8 / 31) - 2


@pytest.mark.parametrize("keep, text, columns, blocks", [
    (0.3, 0, 9, 9), (0.3, 7, 9, 8),  # the text takes the place of a block
    (0.0, 0, 1, 1), (0.0, 7, 1, 0),  # or of the only one
    (1.0, 0, 31, 31), (1.0, 7, 32, 31),  # but where all are kept
])  # fmt: skip
def test_the_text_is_one_of_the_columns_that_a_row_keeps(keep, text, columns, blocks):
    facts = DynamicPlanSpec((1, 11, 11), text, (1, 2, 2), (1, 2, 2), keep, touching=False, text_rows=False)
    found = facts.stats
    assert facts.least == columns and facts.build().least == columns
    assert found.visited == 31 * (blocks + (2 if text else 0))
    assert facts.pairs == 121 * (min(4 * blocks, 121) + text)


def test_a_single_block_is_never_dropped():
    """There is nothing to choose from, so attention is dense."""
    facts = DynamicPlanSpec((1, 3, 3), 5, (1, 4, 4), (1, 4, 4), 0.1, touching=False, text_rows=False)
    assert facts.pairs == 9 * (9 + 5)


def test_pairs_of_everything_kept_are_all():
    for text in (0, 7):
        facts = DynamicPlanSpec((2, 5, 7), text, TILE, (1, 2, 2), 1.0, text_rows=False)
        assert facts.pairs == 70 * (70 + text)


def test_neighbours_come_on_top_only_where_they_are_more():
    few = DynamicPlanSpec(WAN, 0, TILE, TILE, 0.01)
    assert int(few.always.sum(1).max()) > few.least  # 5
    alone = DynamicPlanSpec(WAN, 0, TILE, TILE, 0.01, touching=False)
    assert few.stats.visited == int(few.always.sum(1).clamp(min=5).sum()) > alone.stats.visited


def test_the_first_frame_sees_itself():
    facts = DynamicPlanSpec((5, 4, 8), 0, (2, 4, 4), (1, 4, 4), 0.1, touching=False, first_frame=True)
    # a tile of queries spans two frames: 2 hold the first; one of keys spans one: 2 of 10
    assert facts.always.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    image = DynamicPlanSpec((1, 8, 8), 0, (1, 4, 4), (1, 4, 4), 0.1, touching=False, first_frame=True)
    assert not image.always.any()


@pytest.mark.parametrize("grid, masked", [((1, 8, 8), False), ((1, 9, 7), False), ((1, 9, 7), True)])
def test_text_that_fills_blocks_may_come_first(grid, masked):
    """Then nothing is padded: the ragged block is the last."""
    facts = DynamicPlanSpec(grid, 16, (1, 2, 4), (1, 2, 4), 0.5, text_rows=False, masked_text=masked)
    leading, n = facts.leading(), math.prod(grid)
    behind, plan = facts.build(), leading.build()
    assert leading.text_first and plan.s_kv == n + 16 and torch.equal(leading.k_order, leading.q_order)
    assert plan.k_coord.tolist() == [TEXT] * 16 + behind.k_coord[:n].tolist()
    assert (plan.entries >> 1).tolist() == list(range(len(plan.entries)))
    full = (plan.entries & 1).tolist()
    assert full == [int(not masked)] * 2 + [1] * (n // 8) + [0] * (n % 8 > 0)
    assert torch.equal(plan.counts, behind.counts) and leading.pairs == facts.pairs
    assert (plan.grid_keys, plan.text_keys, plan.grid_blocks) == (
        slice(16, 16 + n), slice(0, 16), slice(2, 2 + len(plan.counts))
    )  # fmt: skip


@pytest.mark.parametrize("change", [dict(text=0), dict(text=9), dict(text_rows=True)])
def test_other_text_stays_behind(change):
    facts = DynamicPlanSpec(**dict(grid=(1, 8, 8), text=16, q_tile=TILE, k_tile=(1, 2, 4), keep=0.5) | change)
    assert replace(facts, text_rows=change.get("text_rows", False)).leading().text_first is False
    if change != dict(text=0):
        with pytest.raises(ValueError, match="in whole blocks of 8, got"):
            replace(facts, text_first=True)


def test_moving_a_plan_moves_all_of_it():
    """Also the parts that only this plan has."""
    facts = DynamicPlanSpec((1, 4, 8), 3, (1, 2, 4), (1, 2, 4), 0.5)
    plan = facts.build().to("meta")
    assert {x.device.type for x in vars(plan).values() if isinstance(x, torch.Tensor)} == {"meta"}
    assert facts.build().bytes > RulePlanSpec(Neighbours(), (1, 4, 8)).build().bytes > 0


@pytest.mark.parametrize("grid", [(600, 2, 2), (1, 3000, 2)])
def test_grids_that_no_kernel_can_address(grid):
    with pytest.raises(ValueError, match="choose a smaller size"):
        DynamicPlanSpec(grid, 0, TILE, TILE, 0.5, touching=False).build()
