"""Recipes list exactly the blocks that a brute-force mask calls for, and mark exactly the full ones."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.masks.band import Band, paper_reach, release_reach
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.visible import visible
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from .. import oracles

axis = st.integers(1, 7)


tiles = st.one_of(st.none(), st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5)))


@st.composite
def rules(draw):
    """A rule with its brute-force mask on a grid of odd size."""
    name = draw(st.sampled_from(["disk", "box", "paper", "release"]))
    if name == "disk":
        grid, radius = (1, draw(axis), draw(axis)), draw(st.integers(1, 9))
        return grid, Disk(radius), oracles.disk(grid, radius)
    grid = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(axis)
    if name == "box":
        dilation = tuple(draw(st.integers(1, max(1, n // 2))) for n in grid)
        window = tuple(
            draw(st.integers(min(2, n), n // d)) if n > 1 else 1 for n, d in zip(grid, dilation, strict=True)
        )
        stride = tuple(draw(st.integers(1, w)) for w in window)
        return grid, Window(grid, window, stride, dilation), oracles.box(grid, window, stride, dilation)
    sink, per_frame = draw(st.integers(0, grid[0])), grid[1] * grid[2]
    if name == "paper":
        return grid, Band(paper_reach(grid[0], per_frame), grid[2], sink), oracles.radial_paper(grid, sink)
    decay, floor = draw(st.sampled_from([0.2, 0.95, 2.0])), draw(st.integers(1, 6))
    reach = release_reach(grid[0], per_frame, decay, floor)
    return grid, Band(reach, grid[2], sink), oracles.radial_release(grid, decay, sink, floor)


@settings(max_examples=60, deadline=None)
@given(
    rules(),
    st.integers(0, 5),
    st.integers(1, 9),
    st.integers(1, 9),
    tiles,
    tiles,
    st.booleans(),
    st.booleans(),
)
def test_blocks_against_brute_force(rule, text, block_q, block_k, q_tile, k_tile, pad, text_rows):
    grid, rule, mask = rule
    spec = RulePlanSpec(rule, grid, text, block_q, block_k, q_tile, k_tile, pad, text_rows)
    plan = spec.build()
    wanted = oracles.in_order(mask, spec.q_order, spec.k_order, text, text_rows)
    touched, full = oracles.blocks(wanted, plan.q_coord != PAD, block_q, block_k)
    assert torch.equal(oracles.listed(plan)[0], touched)
    assert torch.equal(oracles.listed(plan)[1], full)
    seen = visible(plan.kind, plan.params, plan.table, plan.q_coord[:, None], plan.k_coord[None])
    assert torch.equal(seen, wanted)
    assert plan.pairs == int(wanted.sum())
    stats = spec.stats
    assert (stats.visited, stats.block_density) == (plan.visited, plan.block_density)
    assert stats.full_share == plan.full_share


@settings(max_examples=50, deadline=None)
@given(
    rules(), st.integers(0, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), tiles, st.booleans()
)
def test_extra_keys_are_seen_from_the_grid_alone(rule, text, extra, block_q, block_k, tile, text_rows):
    grid, rule, mask = rule
    spec = RulePlanSpec(rule, grid, text, block_q, block_k, tile, tile, True, text_rows, extra_keys=extra)
    wanted = oracles.in_order(mask, spec.q_order, spec.k_order, text, text_rows, extra)
    real = torch.cat([spec.q_order >= 0, torch.ones(text * text_rows, dtype=torch.bool)])
    touched, full = oracles.blocks(wanted, real, block_q, block_k)
    stats = spec.stats
    assert torch.equal(spec.bitmap(), touched)
    assert (stats.visited, stats.full, spec.pairs) == (touched.sum(), full.sum(), wanted.sum())
    if text and text_rows:
        with pytest.raises(ValueError, match=r"cannot hide the \d far keys from text queries"):
            spec.build()
        return
    plan = spec.build()
    assert torch.equal(oracles.listed(plan)[1], full)
    assert torch.equal(
        visible(plan.kind, plan.params, plan.table, plan.q_coord[:, None], plan.k_coord), wanted
    )


@settings(max_examples=50, deadline=None)
@given(
    rules(), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), tiles, tiles, st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_text_that_fills_blocks_may_come_first(rule, texts, block_q, block_k, q_tile, k_tile, pad, masked):
    grid, rule, mask = rule
    text = texts * block_k
    spec = RulePlanSpec(rule, grid, text, block_q, block_k, q_tile, k_tile, pad, False, masked_text=masked)
    leading = spec.leading()
    wanted = oracles.in_order(mask, spec.q_order, spec.k_order, text, False).roll(text, 1)
    plan, stats = leading.build(), leading.stats
    touched, full = oracles.blocks(wanted, plan.q_coord != PAD, block_q, block_k)
    full[:, :texts] &= not masked
    assert torch.equal(oracles.listed(plan)[0], touched) and torch.equal(oracles.listed(plan)[1], full)
    seen = visible(plan.kind, plan.params, plan.table, plan.q_coord[:, None], plan.k_coord[None])
    assert torch.equal(seen, wanted) and plan.pairs == spec.pairs
    assert (stats.visited, stats.full) == (touched.sum(), full.sum())
    assert stats.visited <= spec.stats.visited, "no block holds both text and grid tokens"


@pytest.mark.parametrize(
    "change", [dict(text=0), dict(text=17), dict(text_rows=True), dict(extra_keys=2), dict(snap=True)]
)
def test_other_text_stays_behind(change):
    rule = Band(paper_reach(3, 16), 4)
    spec = RulePlanSpec(rule, (3, 4, 4), **dict(text=16, block_q=8, block_k=8, text_rows=False) | change)
    assert spec.leading() is spec
    if spec.text_rows or spec.extra_keys or spec.snap:
        with pytest.raises(ValueError, match="first among keys only"):
            replace(spec, text_first=True)


def test_the_key_holds_everything_that_shapes_a_plan():
    base = dict(rule=Disk(3), grid=(1, 8, 8), text=4, block_q=16, block_k=16)
    base |= dict(q_tile=(1, 4, 4), k_tile=(1, 4, 4), pad=True)
    assert RulePlanSpec(**base).build().key == RulePlanSpec(**base).build().key
    changes = dict(
        rule=Disk(4),
        grid=(1, 8, 9),
        text=5,
        block_q=8,
        block_k=8,
        q_tile=(1, 2, 8),
        k_tile=(1, 2, 8),
        pad=False,
        text_rows=False,
        snap=True,
        masked_text=True,
        extra_keys=6,
        text_first=True,
    )
    keys = {
        RulePlanSpec(**base | {"text_rows": name not in ("extra_keys", "text_first"), name: value})
        .build()
        .key
        for name, value in changes.items()
    }
    assert len(keys | {RulePlanSpec(**base).build().key}) == len(changes) + 1


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(text=-1), "0 or more text tokens, got -1"),
        (dict(extra_keys=-1), "far keys, got -1"),
        (dict(grid=(1, 0, 4)), "at least one token"),
        (dict(snap=True), "of a band, in raster order .* leave snap out"),
        (dict(snap=True, q_tile=(1, 2, 2), k_tile=(1, 2, 2), block_q=4, block_k=4), "filled-up tiles"),
        (dict(snap=True, q_tile=(1, 2, 2), k_tile=(1, 2, 2), pad=True), "with a block each"),
        (dict(grid=(1, 1, 5000)), "2048"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(ValueError, match=words):
        RulePlanSpec(**dict(rule=Disk(3), grid=(1, 8, 8)) | change).build()


def test_empty_rows_are_refused():
    with pytest.raises(ValueError, match="see no key"):
        RulePlanSpec(Band((-1, -1), 4), (2, 2, 4), block_q=4, block_k=4).build()
