"""Test the fit of block costs: on plans with known costs, and against the committed times."""

from dataclasses import astuple

import pytest

from bench.ledger import RESULTS
from bench.timing import block_costs
from bench.timing.block_costs import SMALLEST, Timed, fit, line, main, timed_on_a_cpu
from diffusers_ext.kernels.block_sparse.gains import COSTS, MARGIN, Costs
from diffusers_ext.kernels.plan.plan import PlanStats

TRUE = Costs(1.5, 1.0, 1.8, 2.2, 2.4, 900, "here")
TIMES = RESULTS / "growth-cpu-x86_64.json"


def timed(rule, visited, full, noise=1.0):
    stats = PlanStats(128, 128, 12800, 12800, 0, 12800, 12800, visited, full)
    share = TRUE.full * stats.effective_cost(getattr(TRUE, rule))
    return Timed(rule, stats, share * noise)


def test_known_costs_are_found_within_their_noise():
    plans = [(rule, 500 * n, 100 * n * n) for rule in ("disk", "box", "band") for n in (1, 2, 3, 4)]
    exact = fit([timed(*p) for p in plans], 900, "here")
    assert astuple(exact)[:-1] == pytest.approx(astuple(TRUE)[:-1], rel=1e-2)
    noisy = [timed(*p, noise=1 + 0.03 * (-1) ** i) for i, p in enumerate(plans)]
    found = fit(noisy, 900, "here")
    assert (found.full, found.disk, found.box, found.band) == pytest.approx((1.5, 1.8, 2.2, 2.4), rel=0.1)


@pytest.mark.parametrize("backend", ["reference", "flex"])
def test_costs_are_those_of_the_committed_times(backend):
    plans = [one for one in timed_on_a_cpu(TIMES)[backend] if one.stats.tokens >= SMALLEST]
    rates = COSTS[backend, "cpu"]
    assert fit(plans, 0, rates.source) == rates
    gaining = 0
    for rule, stats, share in plans:
        predicted = rates.full * stats.effective_cost(getattr(rates, rule))
        assert predicted == pytest.approx(share, rel=0.1)
        gaining += predicted * MARGIN <= 1
        assert predicted * MARGIN > 1 or share < 1, "auto would lose"
    assert gaining >= 4


def test_the_lines_that_it_prints_are_those_of_the_table(capsys):
    main()
    printed = capsys.readouterr().out.splitlines()
    assert printed == [line(*key, rates) for key, rates in COSTS.items() if key[1] == "cpu"]
    assert (
        eval(printed[0].strip().rstrip(",").partition(": ")[2], vars(block_costs))
        == COSTS["reference", "cpu"]
    )
