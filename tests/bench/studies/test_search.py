"""Replays of a pool pick what the samplers pick, and areas compare curves as the paper does."""

import numpy as np
import pytest
import torch

from bench.ledger import committed
from bench.studies.search_pool import Pool, turns
from bench.studies.search_real import replayed
from bench.studies.search_replay import affordable, area, areas, curves, omega, plans, ranks, replay
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.ttsnap import TTSnap, cost
from diffusers_ext.training.data.estimates import trajectories
from tests.sampling.searches import SIZE, redness, sample
from tests.tiny_models import sd3

PLAN = {2: 0.5, 5: 0.4}


def pool(prompts=3, size=12, steps=15, noise=0.0, seed=0):
    """A pool whose estimates are the finished scores with some noise."""
    dice = np.random.default_rng(seed)
    finals = dice.normal(size=(prompts, size))
    early = finals[:, :, None] + noise * dice.normal(size=(prompts, size, steps))
    return Pool(finals, finals > 1, {"good": early, "none": dice.normal(size=early.shape)}, [0.5] * steps)


@pytest.mark.parametrize("sampler", [TTSnap(rewards=redness, n=6, prune_at=(2, 5), keep=(0.5, 0.4)), None])
def test_a_replay_picks_what_the_sampler_picks(sampler):
    pipe = sd3.pipeline()
    call = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **SIZE)
    made = trajectories(call, 6)
    with torch.no_grad():
        finals = redness(call.decode(made.ends), None).numpy()
        early = torch.stack([redness(call.decode(made.estimates[:, s]), None) for s in range(10)], 1).numpy()
    picked = replay(early, finals, np.arange(6), PLAN if sampler else {})
    result = sample(sampler or BestOfN(rewards=redness, n=6), pipe=pipe)
    assert result.history[picked].seed == result.seeds[0]
    assert result.scores[0] == pytest.approx(finals[picked], abs=1e-4)


def test_a_reward_that_knows_the_end_never_loses_the_best():
    found = pool()
    for p in range(3):
        best = replay(found.early["good"][p], found.finals[p], np.arange(12), PLAN)
        assert best == found.finals[p].argmax()


@pytest.mark.parametrize("budget", [30, 62, 200, 390])
def test_a_budget_pays_for_as_many_as_it_can(budget):
    n = affordable(budget, PLAN, 15)
    assert 2 * cost(n, PLAN, 15) <= budget < 2 * cost(n + 1, PLAN, 15) or n == 1


def test_the_usual_plans_of_fifteen_steps():
    assert plans(15) == {"plain": {5: 0.4, 9: 0.4}, "aware": {3: 0.4, 6: 0.4}}


def test_ranks_of_estimates():
    found = ranks(pool(prompts=40))
    assert [row["rank"] for row in found["good"]] == [pytest.approx(1.0)] * 15
    assert abs(np.mean([row["rank"] for row in found["none"]])) < 0.1
    assert all(row["low"] <= row["rank"] <= row["high"] for row in found["none"])


def test_areas_are_those_of_straight_lines():
    budgets = [0, 10, 20]
    plain = np.array([[1.0, 2.0, 3.0]] * 4)
    assert area(plain, 1.0, budgets) == pytest.approx(20)
    found = omega(1.5 * plain, plain, budgets)
    # the curve 1.5, 3, 4.5 above 1 encloses 40
    assert (found["omega"], found["low"], found["high"]) == pytest.approx((1.0, 1.0, 1.0))
    assert omega(plain, plain, budgets)["omega"] == 0


def test_good_estimates_gain_and_bad_ones_lose():
    budgets = [30, 60, 90, 120]
    rows = areas(pool(prompts=60), budgets)
    assert rows[0]["curve"]["reward"] == sorted(rows[0]["curve"]["reward"])
    by = {(row["reward"], row["plan"]): row["area of reward"] for row in rows[1:]}
    assert by["good", "aware"]["low"] > 0 > by["none", "aware"]["high"]


def test_a_pool_must_be_large_enough():
    with pytest.raises(ValueError, match="pays for 13 candidates, and the pool has 12"):
        curves(pool(), None, {}, [390])


def test_tasks_come_in_turn():
    found = [question.task for question in turns(questions("tuning", 2))]
    assert found[:6] == found[6:] and len(set(found)) == 6


@pytest.mark.parametrize("name", ["best-of-n", "ttsnap"])
def test_a_replay_finds_and_costs_what_the_sampler_does(name):
    pipe, size = sd3.pipeline(), {**SIZE, "num_inference_steps": 15}
    call = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **size)
    made = trajectories(call, 7)
    with torch.no_grad():
        finals = redness(call.decode(made.ends), None).numpy()
        early = torch.stack([redness(call.decode(made.estimates[:, s]), None) for s in range(15)], 1).numpy()
    found = Pool(finals[None], finals[None] > 0, {"shapes-clip": early[None]}, made.levels)
    run = replayed(found, name, 110, 0)
    sampler = {"best-of-n": BestOfN, "ttsnap": TTSnap}[name](rewards=redness, n=1000, budget=110)
    result = sample(sampler, pipe=pipe, num_inference_steps=15)
    assert (run.nfe, run.scored) == (result.nfe, result.scored) and result.nfe <= 110
    assert run.reward == pytest.approx(float(result.scores[0]), abs=1e-4)
    assert run.right == (run.reward > 0)


def test_the_committed_figures_are_complete():
    found = committed("search-shapes-sd3")
    assert max(found["real"]["apart"].values()) < 1e-5  # replays are real runs
    for row in found["real"]["rows"]:
        assert row["nfe"] <= row["budget"] and row["reward"]["low"] <= row["reward"]["high"]
    for row in found["areas"][1:]:
        share = row["area of reward"]
        assert share["low"] <= share["omega"] <= share["high"]
    assert [row["step"] for row in found["ranks"]["tuning"]["shapes-clip"]] == list(range(15))
