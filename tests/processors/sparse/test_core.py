"""The core of sparse methods goes through the blocks of a plan once to count them and once to list them."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import RunContext
from diffusers_ext.kernels.block_sparse import gains
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.plan import spec as plan_spec
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ...hosts import built
from .test_method import SITE, dense, layout_of


@pytest.fixture
def walks(monkeypatch):
    """Count how often the blocks of a plan are walked through, and one row of them, to choose a plan."""
    counts, stock = Counter(), plan_spec.cover

    def counted(rule, q, k, rows=None):
        counts["walks" if rows is None else "estimates"] += 1
        return stock(rule, q, k, rows)

    monkeypatch.setattr(plan_spec, "cover", counted)
    monkeypatch.setattr(plan_spec, "SAMPLE", 1)
    return counts


@pytest.mark.parametrize(
    "grid, method, plans",
    [
        ((1, 16, 32), dx.CLEAR(4), 3),  # tiles lie or stand, and halves
        ((1, 17, 33), dx.CLEAR(4), 4),  # short tiles packed, and filled up
        ((3, 9, 11), dx.GNA((3, 5, 5)), 5),  # two of the plan that the advice leads to
        ((1, 17, 33), dx.CLEAR(4, reduce="block"), 0),
        ((5, 6, 7), dx.Radial(), 2),
        ((5, 6, 7), dx.Radial(reduce="block"), 0),
    ],
)
@pytest.mark.parametrize("text", [0, 9])
def test_a_forecast_walks_through_one_plan_once(grid, method, plans, text, walks):
    """With text there are two forecasts: of the kernel with the rows of text, and of a session without."""
    dx.plan(dx.Grid(*grid, text=text), method)
    assert walks == Counter(walks=int(method != dx.Radial(reduce="block")), estimates=plans)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grid, text", [((1, 48, 144), 0), ((1, 49, 144), 128), ((1, 49, 145), 13)])
def test_a_core_walks_through_a_plan_once(grid, text, masked, backend, walks, monkeypatch):
    """It decides, hides text, and puts text first, all from one walk."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(gains.COSTS, ("reference", "cpu"), gains.Costs(0.1, 1, 1, 1, 1, 0, "here"))
    method = dx.CLEAR(2, backend=backend)
    layout = replace(layout_of(grid, text, front=True), masked_text=masked and text > 0)
    core = method.bind(SITE, RunContext(), dense)
    core.run.layout = layout
    for _ in range(2):
        core.begin_call(torch.zeros(1))
    assert core.begun_with.backend == "reference" and walks["walks"] == 1


def test_a_session_walks_through_its_plans_once(walks):
    tiny, pipe = built("flux")
    made = None
    with dx.apply(pipe, dx.CLEAR(2, backend="reference")) as session:
        for _ in range(2):
            tiny.run(pipe, steps=2)
            made = made or Counter(walks)
        assert {site.backend for site in session.report().sites} == {"reference"}
    assert walks == made and sum(made.values()) == 4, "one for each of four plans of a single row"


@pytest.mark.parametrize("change", [{}, {"snap": True}, {"text_first": True}, {"extra_keys": 3}])
def test_a_plan_that_is_listed_is_counted_as_well(change, walks):
    facts = dict(text=16, block_q=16, block_k=16, q_tile=(1, 4, 4), k_tile=(1, 4, 4), pad=True)
    spec = RulePlanSpec(Disk(3), (1, 9, 11), text_rows=False, **facts | change)
    plan, counted = spec.build(), replace(spec)
    assert spec.stats == counted.stats and spec.pairs == counted.pairs == plan.pairs
    assert (spec.stats.visited, spec.stats.full_share) == (plan.visited, plan.full_share)
    assert walks["walks"] == 2  # of equal specs: one listed, one counted
