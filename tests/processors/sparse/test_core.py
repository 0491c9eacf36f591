"""The core of sparse methods goes through the blocks of a plan once to count them and once to list them."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import RunContext
from diffusers_ext.kernels.block_sparse import gains
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ...hosts import built
from .test_method import SITE, dense, layout_of


@pytest.fixture
def walks(monkeypatch):
    """Count how often the blocks of each spec were computed."""
    counts, stock = Counter(), RulePlanSpec._blocks

    def counted(spec):
        counts[spec] += 1
        return stock(spec)

    monkeypatch.setattr(RulePlanSpec, "_blocks", counted)
    return counts


@pytest.mark.parametrize(
    "grid, method, plans",
    [
        ((1, 16, 32), dx.CLEAR(4), 1),
        ((1, 17, 33), dx.CLEAR(4), 2),  # short tiles packed, and filled up
        ((3, 9, 11), dx.GNA((3, 5, 5)), 2),
        ((1, 17, 33), dx.CLEAR(4, reduce="block"), 1),
        ((5, 6, 7), dx.Radial(), 1),
        ((5, 6, 7), dx.Radial(reduce="block"), 1),
    ],
)
@pytest.mark.parametrize("text", [0, 9])
def test_a_forecast_counts_each_plan_once(grid, method, plans, text, walks):
    """With text there are two forecasts: of the kernel with the rows of text, and of a session without."""
    dx.plan(dx.Grid(*grid, text=text), method)
    assert set(walks.values()) == {1} and len(walks) == plans * (2 if text else 1)


@pytest.mark.parametrize("size", [(1, 65, 64), (1, 64, 64)])
def test_a_forecast_of_a_model_counts_each_plan_once(size, walks):
    _, h, w = size
    dx.plan("flux.1", dx.CLEAR(16), height=16 * h, width=16 * w)
    assert set(walks.values()) == {1} and len(walks) == (2 if h % 8 else 1) * 2


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grid, text", [((1, 48, 144), 0), ((1, 49, 144), 128), ((1, 49, 145), 13)])
def test_a_core_lists_a_plan_once_more(grid, text, masked, backend, walks, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(gains.COSTS, ("reference", "cpu"), gains.Costs(0.1, 1, 1, 1, 1, 0, "here"))
    method = dx.CLEAR(2, backend=backend)
    layout = replace(layout_of(grid, text, front=True), masked_text=masked and text > 0)
    core = method.bind(SITE, RunContext(), dense)
    core.run.layout = layout
    for _ in range(2):
        core.begin_call(torch.zeros(1))
    assert core.begun_with.backend == "reference"
    ragged = grid[1] % 8 or grid[2] % 16
    assert max(walks.values()) <= 2 and sum(walks.values()) <= (3 if ragged else 2)


def test_a_session_goes_through_a_plan_twice_and_never_again(walks):
    tiny, pipe = built("flux")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference")) as session:
        for _ in range(2):
            tiny.run(pipe, steps=2)
        assert {site.backend for site in session.report().sites} == {"reference"}
    assert walks and max(walks.values()) <= 2 and sum(walks.values()) <= 3


@pytest.mark.parametrize("change", [{}, {"snap": True}, {"text_first": True}, {"extra_keys": 3}])
def test_a_plan_that_is_listed_is_counted_as_well(change, walks):
    facts = dict(text=16, block_q=16, block_k=16, q_tile=(1, 4, 4), k_tile=(1, 4, 4), pad=True)
    spec = RulePlanSpec(Disk(3), (1, 9, 11), text_rows=False, **facts | change)
    plan, counted = spec.build(), replace(spec)
    assert spec.stats == counted.stats and spec.pairs == counted.pairs == plan.pairs
    assert (spec.stats.visited, spec.stats.full_share) == (plan.visited, plan.full_share)
    assert walks[spec] == 2  # of equal specs: one listed, one counted
