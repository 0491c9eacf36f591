"""Paths branch where they should, cost what they say, and go on as the call that they left."""

import pytest
import torch
from diffusers import HeunDiscreteScheduler

from diffusers_ext.errors import MethodError, UnsupportedError
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.paths import Paths

from ..close import alike
from ..hosts import built
from ..tiny_models import sd3
from .searches import counted, failing_at, on, redness, sample, unchanged

FORK = dict(branch_at=(3, 6), back_by=2)  # of 10 steps: 4 calls, then 5 from step 2, then 5 from step 5


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "wan"])
def test_costs_are_those_of_the_denoiser(name):
    found, pipe = built(name)
    rows = counted(pipe, found.layer)
    result = on(found, Paths(rewards=redness, n=2, copies=2, **FORK), pipe=pipe, steps=10)
    assert sum(rows) == result.nfe == 2 * (2 * 4 + 4 * 5 + 4 * 5)
    assert sum(c.evaluations for c in result.history) == result.nfe
    assert [c.origin for c in result.history[:6]] == [None, None, 0, 0, 1, 1]
    assert len(result.history) == 10 and result.seeds == (None,)
    assert result.scored == 4 + 4  # at the second branch and at the end


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_without_added_noise_it_is_best_of_n(name):
    found, pipe = built(name)
    how = dict(copies=1, branch_at=(2, 4), back_by=0)
    a = on(found, Paths(rewards=redness, n=3, **how), pipe=pipe)
    b = on(found, BestOfN(rewards=redness, n=3), pipe=pipe)
    alike(a.images, b.images)
    alike(a.noise, b.noise)
    assert a.nfe == b.nfe


def test_the_best_of_a_branch_go_on():
    result = sample(Paths(rewards=redness, n=2, copies=3, **FORK))
    second = result.history[2:8]
    best = sorted(second, key=lambda c: -c.estimates[6])[:2]
    parents = [c.origin for c in result.history[8:]]
    assert parents == [best[0].place] * 3 + [best[1].place] * 3
    assert result.scores[0] == max(c.score for c in result.history if c.score is not None)
    assert [c.dropped for c in result.history] == [3] * 2 + [6] * 6 + [None] * 6
    assert len({c.score for c in result.history[8:]}) == 6  # copies differ


def test_the_noise_is_that_of_the_start():
    pipe = sd3.pipeline()
    result = sample(Paths(rewards=redness, n=3, **FORK), pipe=pipe)
    starts = sample(BestOfN(rewards=redness, n=3), pipe=pipe).history
    chosen = max((c for c in result.history if c.score is not None), key=lambda c: c.score)
    while chosen.origin is not None:
        chosen = result.history[chosen.origin]
    alone = BestOfN(rewards=redness, n=1)
    again = sample(alone, pipe=pipe, seed=starts[chosen.place].seed)
    assert torch.equal(result.noise, again.noise)


@pytest.mark.parametrize("name", ["sd", "wan"])
def test_groups_of_any_size_find_the_same(name):
    found, pipe = built(name)
    results = [
        on(found, Paths(rewards=redness, n=2, micro_batch=m, branch_at=(2, 3), back_by=1), pipe=pipe, steps=6)
        for m in (None, 3)
    ]
    alike(results[0].images, results[1].images)


def test_each_prompt_has_paths_of_its_own():
    pipe = sd3.pipeline()
    both = sample(Paths(rewards=redness, n=2, **FORK), ["a", "b"], pipe=pipe)
    alone = sample(Paths(rewards=redness, n=2, **FORK), "a", pipe=pipe)
    alike(both.images[:1], alone.images)
    assert both.nfe == 2 * alone.nfe


def test_candidates_without_a_number_go_nowhere():
    def some(images, prompts):
        found = redness(images, prompts).clone()
        found[1:] = torch.nan
        return found

    result = sample(Paths(rewards=some, n=2, **FORK))
    assert {c.origin for c in result.history[6:]} == {2}


@pytest.mark.parametrize("budget, n", [(56, 2), (83, 2), (84, 3), (1000, 3)])
def test_a_budget_lowers_the_number(budget, n):
    result = sample(Paths(rewards=redness, n=3, copies=1, **FORK, budget=budget))
    assert result.nfe == 28 * n <= budget


def test_one_path_is_the_plain_picture():
    pipe = sd3.pipeline()
    a = sample(Paths(rewards=redness, n=1, copies=1), pipe=pipe)
    assert torch.equal(a.images, sample(BestOfN(rewards=redness, n=1), pipe=pipe).images)


@pytest.mark.parametrize("call", [1, 2])
def test_the_pipeline_stays_as_it_was(call):
    pipe = sd3.pipeline()
    with unchanged(pipe), pytest.raises(RuntimeError, match="broken"):
        sample(Paths(rewards=failing_at(call)), pipe=pipe)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(n=0), "n must be 1 or more, got 0"),
        (dict(branch_at=()), "branch_at takes one step or more"),
        (dict(branch_at=(0.6, 0.4)), "rising order"),
        (dict(branch_at=(9,)), "this call has steps 0 to 9, got"),
        (dict(back_by=2.5), "back_by takes a number of steps, or a share of them below 1, got 2.5"),
        (dict(back_by=0), "copies=2 and back_by=0; go back by one step"),
        (dict(branch_at=(2,), back_by=3), "got 3 steps back after step 2; branch later, or go back less"),
        (dict(budget=5), "paths needs .* evaluations for one candidate, got budget=5"),
    ],
)
def test_bad_settings_in_a_sentence(given, says):
    with pytest.raises(MethodError, match=says):
        sample(Paths(rewards=redness, **given))


def test_a_scheduler_with_two_calls_a_step_is_refused():
    found, pipe = built("sd")
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UnsupportedError, match="got HeunDiscreteScheduler; take DDIM, Euler"):
        on(found, Paths(rewards=redness), pipe=pipe)
