"""Pruning keeps the best by their estimates, costs what it says, and never changes who survives."""

import warnings

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

import diffusers_ext as dx
from diffusers_ext.errors import MethodError, UnsupportedError
from diffusers_ext.rewards import Reward
from diffusers_ext.rewards.base import ensemble
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.ttsnap import TTSnap, cost

from ..close import alike
from ..hosts import built, host
from ..tiny_models import sd3
from .searches import counted, failing_at, greenness, on, redness, sample, unchanged

PRUNED = dict(prune_at=(2, 5), keep=(0.5, 0.34))


def finished(result):
    return {c.place: c.score for c in result.history if c.score is not None}


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "wan", "wan2.2"])
def test_survivors_are_those_of_the_run_without_pruning(name):
    found, pipe = built(name)
    rows = counted(pipe, found.layer)
    result = on(found, TTSnap(rewards=redness, n=6, **PRUNED), pipe=pipe)
    # 6 candidates for 3 steps, 3 for 3 more, 1 for the last 2, each with two branches
    assert sum(rows) == result.nfe == 2 * (18 + 9 + 2)
    assert [sum(c.dropped == step for c in result.history) for step in (2, 5)] == [3, 2]
    assert sum(c.evaluations for c in result.history) == result.nfe
    every = on(found, BestOfN(rewards=redness, n=6))
    for place, score in finished(result).items():
        alike(torch.tensor(score), torch.tensor(every.history[place].score))


def test_the_best_estimates_survive():
    result = sample(TTSnap(rewards=redness, n=8, prune_at=(3,), keep=(0.25,)))
    early = [c.estimates[3] for c in result.history]
    best = sorted(range(8), key=lambda i: -early[i])[:2]
    assert sorted(finished(result)) == sorted(best)
    assert result.scores[0] == max(finished(result).values())
    assert result.seeds == (next(c.seed for c in result.history if c.score == result.scores[0]),)


@pytest.mark.filterwarnings("ignore:diffusers_ext. ttsnap drops nothing")
@pytest.mark.parametrize("how", [dict(prune_at=(), keep=()), dict(prune_at=(2, 5), keep=(1.0, 1.0))])
def test_without_drops_it_is_best_of_n(how):
    a, b = sample(TTSnap(rewards=redness, n=4, **how)), sample(BestOfN(rewards=redness, n=4))
    assert torch.equal(a.images, b.images) and torch.equal(a.scores, b.scores)
    assert (a.nfe, a.scored, a.seeds) == (b.nfe, b.scored, b.seeds)


@pytest.mark.parametrize("name", ["sd", "flux", "wan"])
def test_one_candidate_is_the_plain_picture(name):
    found, pipe = built(name)
    a = on(found, TTSnap(rewards=redness, n=1), pipe=pipe)
    assert torch.equal(a.images, on(found, BestOfN(rewards=redness, n=1), pipe=pipe).images)
    assert a.scored == 1


@pytest.mark.parametrize("name", ["sd", "wan"])
def test_groups_of_any_size_find_the_same(name):
    found, pipe = built(name)
    results = [
        on(found, TTSnap(rewards=redness, n=6, micro_batch=m, **PRUNED), pipe=pipe) for m in (None, 1, 4)
    ]
    for other in results[1:]:
        alike(other.images, results[0].images)
        assert (other.seeds, other.nfe) == (results[0].seeds, results[0].nfe)


def test_groups_of_any_size_draw_the_same_noise_in_steps():
    found, pipe = built("sd")
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    results = [
        on(
            found,
            TTSnap(rewards=redness, n=3, micro_batch=m, prune_at=(1,), keep=(0.67,)),
            pipe=pipe,
            steps=4,
        )
        for m in (None, 1, 2)
    ]
    for other in results[1:]:
        alike(other.images, results[0].images)
    # each is what the plain pipeline makes with the generator of that candidate
    call = found.size | found.guided | dict(num_inference_steps=4, output_type="pt")
    plain = pipe("a red circle", generator=torch.Generator().manual_seed(results[0].seeds[0]), **call).images
    alike(results[0].images, plain)


def test_prompts_have_pools_of_their_own():
    pipe = sd3.pipeline()
    both = sample(TTSnap(rewards=redness, n=5, **PRUNED), ["a", "b"], pipe=pipe)
    alone = sample(TTSnap(rewards=redness, n=5, **PRUNED), "a", pipe=pipe)
    alike(both.images[:1], alone.images)
    assert both.nfe == 2 * alone.nfe


def test_the_cost_of_a_plan():
    # The schedule of the paper's notebook: 20 steps, after 3, 7 and 12 of which candidates are dropped.
    assert cost(1000, {2: 0.4, 6: 0.4, 11: 0.5}, 20) == 3 * 1000 + 4 * 400 + 5 * 160 + 8 * 80
    assert cost(1, {2: 0.4}, 20) == 20


@pytest.mark.parametrize("budget", [20, 61, 62, 100])
def test_a_budget_pays_for_as_many_as_it_can(budget):
    pipe = sd3.pipeline()
    result = sample(TTSnap(rewards=redness, n=9, budget=budget, **PRUNED), pipe=pipe)
    n, plan = len(result.history), {2: 0.5, 5: 0.34}
    assert result.nfe == 2 * cost(n, plan, 10) <= budget
    assert n == 9 or 2 * cost(n + 1, plan, 10) > budget


def test_a_budget_for_less_than_one_is_refused():
    with pytest.raises(MethodError, match="ttsnap needs 20 evaluations for one candidate, got budget=19"):
        sample(TTSnap(rewards=redness, budget=19))


def test_ranks_decide_if_asked():
    rewards = [(redness, 1.0), (greenness, 1000.0)]
    seen = {}
    for combine in ("sum", "ranks"):
        result = sample(TTSnap(rewards=rewards, n=8, combine=combine, prune_at=(4,), keep=(0.25,)))
        seen[combine] = sorted(finished(result))
    early = sample(TTSnap(rewards=rewards, n=8, prune_at=(4,), keep=(0.25,), keep_pictures=True)).history
    pictures = torch.stack([torch.from_numpy(c.pictures[4]) for c in early]).permute(0, 3, 1, 2) / 255
    total = sum(r(pictures, None).argsort().argsort() * w for r, w in ((redness, 1), (greenness, 1000)))
    assert seen["ranks"] == sorted(total.argsort(descending=True)[:2].tolist())
    assert seen["sum"] == sorted(greenness(pictures, None).argsort(descending=True)[:2].tolist())


def test_another_reward_may_prune():
    result = sample(
        TTSnap(rewards=redness, prune_reward=greenness, n=8, prune_at=(4,), keep=(0.25,), keep_pictures=True)
    )
    pictures = (
        torch.stack([torch.from_numpy(c.pictures[4]) for c in result.history]).permute(0, 3, 1, 2) / 255
    )
    assert sorted(finished(result)) == sorted(greenness(pictures, None).argsort(descending=True)[:2].tolist())
    assert result.scores[0] == max(finished(result).values())


class Aware(Reward):
    """Redness, which notes the levels at which it is asked."""

    def __init__(self, levels, level=0.0):
        self.levels, self.level = levels, level

    def at(self, level):
        return Aware(self.levels, level)

    def _score(self, images, prompts):
        self.levels.append(self.level)
        return redness(images, prompts)


def test_the_usual_places_depend_on_the_reward():
    levels = []
    for reward, places in ((redness, [4, 6]), (Aware(levels), [2, 4])):
        result = sample(TTSnap(rewards=reward, n=6))
        assert sorted({c.dropped for c in result.history} - {None}) == places
    assert levels == sorted(levels, reverse=True) and levels[-1] == 0 and 0.4 < levels[0] < 1


@pytest.mark.filterwarnings("ignore:diffusers_ext. ttsnap drops nothing")
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_calls_have_room_for_fewer_drops(steps):
    result = sample(TTSnap(rewards=redness, n=4), num_inference_steps=steps)
    assert all(c.dropped is None or c.dropped < steps - 1 for c in result.history)
    plan = TTSnap(rewards=redness).plan(ensemble(redness), steps)
    assert result.nfe == 2 * cost(4, plan, steps)


def test_candidates_without_a_number_are_dropped():
    def some(images, prompts):
        found = redness(images, prompts).clone()
        if len(found) == 6:
            found[found.argmax()] = torch.nan
        return found

    result = sample(TTSnap(rewards=some, n=6, prune_at=(3,), keep=(0.5,)))
    lost = [c for c in result.history if c.estimates[3] != c.estimates[3]]
    assert len(lost) == 1 and lost[0].dropped == 3 and len(finished(result)) == 3


def test_no_number_at_all_is_an_error():
    says = "nothing gave no finite number for each of 4 candidates of 'a red circle'"
    with pytest.raises(MethodError, match=says):
        sample(TTSnap(rewards=nothing, n=4))


def nothing(images, prompts):
    return torch.full((len(images),), torch.nan)


def test_equal_scores_keep_the_first():
    result = sample(TTSnap(rewards=lambda images, prompts: torch.zeros(len(images)), n=5, **PRUNED))
    assert result.seeds == (0,) and [c.dropped for c in result.history] == [None, 5, 2, 2, 2]


def test_a_growing_function_of_the_reward_changes_nothing():
    results = [sample(TTSnap(rewards=r, n=6, **PRUNED)) for r in (redness, lambda i, p: redness(i, p) ** 3)]
    assert torch.equal(results[0].images, results[1].images)


@pytest.mark.parametrize("call", [None, 1, 2])
def test_the_pipeline_stays_as_it_was(call):
    pipe = sd3.pipeline()
    reward = redness if call is None else failing_at(call)
    with unchanged(pipe):
        if call is None:
            sample(TTSnap(rewards=reward, n=4), pipe=pipe)
        else:
            with pytest.raises(RuntimeError, match="broken"):
                sample(TTSnap(rewards=reward, n=4), pipe=pipe)


SESSIONS = {
    "softpag": ("sd3", lambda h: dx.SoftPAG(heads={h.layer: [0, 2]}, scale=2.0)),
    "clear": ("sd3", lambda h: dx.CLEAR(radius=2, backend="reference")),
    "flux": ("flux", lambda h: dx.CLEAR(radius=2, backend="reference")),
}


@pytest.mark.parametrize("kind", SESSIONS)
def test_under_a_session_survivors_are_its_plain_pictures(kind):
    name, method = SESSIONS[kind]
    found, pipe = built(name)
    with dx.apply(pipe, method(found)):
        rows = counted(pipe, found.layer)
        result = on(found, TTSnap(rewards=redness, n=4, prune_at=(2,), keep=(0.5,)), pipe=pipe, steps=5)
        assert sum(rows) == result.nfe
        call = found.size | found.extra | found.guided | dict(num_inference_steps=5, output_type="pt")
        plain = pipe("a red circle", latents=result.noise, **call).images
    alike(result.images, plain)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(n=0), "n must be 1 or more, got 0"),
        (dict(prune_at=(0.6, 0.35)), "rising order"),
        (dict(keep=(0.4,)), "for each of 2 steps, got"),
        (dict(keep=(0.4, 0.0)), "above 0 and not above 1"),
        (dict(keep=(1.4, 0.4)), "above 0 and not above 1"),
        (dict(prune_at=(3, 9)), "this call has steps 0 to 9, got"),
        (dict(prune_at=(3, 40)), "this call has steps 0 to 9, got"),
        (dict(combine="product"), "sum | ranks"),
    ],
)
def test_bad_settings_in_a_sentence(given, says):
    with pytest.raises(MethodError, match=says):
        sample(TTSnap(rewards=redness, **given))


def test_a_schedule_that_nobody_knows_is_refused_before_the_first_step():
    from diffusers import IPNDMScheduler

    found, pipe = built("sd")
    pipe.scheduler = IPNDMScheduler()
    with pytest.raises(UnsupportedError, match="got IPNDMScheduler"):
        on(found, TTSnap(rewards=redness), pipe=pipe)


def test_a_guidance_that_changes_on_the_way_is_counted_as_it_is():
    found = host("sd3")
    pipe = found.build()
    rows = counted(pipe, found.layer)
    sampler = TTSnap(rewards=redness, n=4, prune_at=(2,), keep=(0.5,), micro_batch=2)
    result = on(found, sampler, pipe=pipe, callback_on_step_end=lambda p, i, t, s: s)
    assert sum(rows) == result.nfe


def test_a_call_of_one_step_is_best_of_n_and_says_so():
    """No step of one is left for dropping; the pictures are those of best of n."""
    words = "ttsnap drops nothing in a call of 1 step, so it is best-of-n here; take more steps"
    with pytest.warns(UserWarning, match=words):
        found = sample(TTSnap(rewards=redness, n=3), num_inference_steps=1)
    wanted = sample(BestOfN(rewards=redness, n=3), num_inference_steps=1)
    assert torch.equal(found.images, wanted.images) and found.nfe == wanted.nfe
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(TTSnap(rewards=redness, n=1), num_inference_steps=1)
        sample(TTSnap(rewards=redness, n=3), num_inference_steps=4)
