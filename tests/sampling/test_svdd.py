"""At every step one of several children goes on: the best, or one drawn by its value."""

import pytest
import torch

from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.svdd import SVDD, pick

from ..close import alike
from ..hosts import built
from ..tiny_models import sd3
from .searches import counted, failing_at, on, redness, sample, unchanged


def test_values_are_drawn_by_their_softmax():
    values, dice = torch.tensor([0.1, 0.3, torch.nan, 0.2]), torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([pick(values, 0.1, dice) for _ in range(4000)]), minlength=4)
    wanted = torch.softmax(torch.tensor([1.0, 3.0, -torch.inf, 2.0]), 0)
    assert (counts / 4000).tolist() == pytest.approx(wanted.tolist(), abs=0.03) and counts[2] == 0


def test_a_small_alpha_picks_the_best():
    dice = torch.Generator().manual_seed(0)
    assert {pick(torch.tensor([0.1, 0.3, 0.2]), 1e-6, dice) for _ in range(50)} == {1}
    pipe = sd3.pipeline()
    a, b = (sample(SVDD(rewards=redness, alpha=alpha), pipe=pipe) for alpha in (0.0, 1e-9))
    scores = [[c.score for c in found.history if c.score is not None] for found in (a, b)]
    # Draws take random numbers of their own, so that only the choice of the first step is comparable.
    first = [[c.dropped for c in found.history[:4]] for found in (a, b)]
    assert first[0] == first[1] and len(scores[0]) == len(scores[1]) == 4


@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "wan"])
def test_costs_are_those_of_the_denoiser(name):
    found, pipe = built(name)
    rows = counted(pipe, found.layer)
    result = on(found, SVDD(rewards=redness, children=3), pipe=pipe, steps=5)
    assert sum(rows) == result.nfe == 3 * 5 * 2 and result.scored == 3 * 5
    assert torch.isfinite(result.images).all()


def test_all_children_come_from_the_best_start():
    result = sample(SVDD(rewards=redness, children=4))
    best = max(result.history[:4], key=lambda c: c.estimates[0])
    assert [c.dropped for c in result.history[:4]] == [None if c is best else 0 for c in result.history[:4]]
    assert [c.origin for c in result.history[4:]] == [best.place] * 3
    assert result.seeds == (None,)  # no seed alone makes the picture
    seeds = [c.seed for c in sample(BestOfN(rewards=redness, n=4)).history]
    start = sample(BestOfN(rewards=redness, n=1), seed=seeds[best.place])
    assert torch.equal(result.noise, start.noise)


def test_it_raises_the_reward_with_more_children():
    pipe = sd3.pipeline()
    scores = [
        float(sample(SVDD(rewards=redness, children=n), ["a", "b"], pipe=pipe).scores.mean()) for n in (1, 8)
    ]
    assert scores[1] > scores[0]


def test_one_child_is_the_plain_picture():
    pipe = sd3.pipeline()
    a = sample(SVDD(rewards=redness, children=1), pipe=pipe)
    assert torch.equal(a.images, sample(BestOfN(rewards=redness, n=1), pipe=pipe).images)


def test_without_fresh_noise_the_best_start_runs_on():
    pipe = sd3.pipeline()
    result = sample(SVDD(rewards=redness, children=3, renoise=0.0), pipe=pipe)
    scores = torch.tensor([c.score for c in result.history if c.score is not None])
    alike(scores, scores[:1].expand(3))
    call = dict(height=16, width=16, max_sequence_length=16, num_inference_steps=10, guidance_scale=3.0)
    plain = pipe("a red circle", latents=result.noise, output_type="pt", **call).images
    alike(result.images, plain, dtype=torch.float32)


def test_groups_of_any_size_find_the_same():
    pipe = sd3.pipeline()
    results = [sample(SVDD(rewards=redness, micro_batch=m), pipe=pipe) for m in (None, 3)]
    alike(results[0].images, results[1].images)


def test_each_prompt_has_children_of_its_own():
    pipe = sd3.pipeline()
    both = sample(SVDD(rewards=redness), ["a", "b"], pipe=pipe)
    alike(both.images[:1], sample(SVDD(rewards=redness), "a", pipe=pipe).images)


def test_a_budget_lowers_the_number():
    assert sample(SVDD(rewards=redness, budget=59)).nfe == 40


@pytest.mark.parametrize("call", [1, 4])
def test_the_pipeline_stays_as_it_was(call):
    pipe = sd3.pipeline()
    with unchanged(pipe), pytest.raises(RuntimeError, match="broken"):
        sample(SVDD(rewards=failing_at(call)), pipe=pipe)


def test_nan_for_all_is_an_error():
    with pytest.raises(MethodError, match="nothing gave no finite number for each of 4 candidates"):
        sample(SVDD(rewards=nothing))


def nothing(images, prompts):
    return torch.full((len(images),), torch.nan)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(children=0), "children must be 1 or more, got 0"),
        (dict(alpha=-1), "alpha must"),
        (dict(renoise=1.5), "renoise must"),
        (dict(budget=5), "svdd needs 20 evaluations for one candidate, got budget=5"),
    ],
)
def test_bad_settings_in_a_sentence(given, says):
    with pytest.raises(MethodError, match=says):
        sample(SVDD(rewards=redness, **given))
