"""Neighbours have the norm and the cosine that are asked, and the search goes where the reward grows."""

import pytest
import torch

from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.zero_order import ZeroOrder, neighbour

from ..close import alike, close
from ..hosts import built
from ..tiny_models import sd3
from .searches import counted, failing_at, on, redness, sample, unchanged


@pytest.mark.parametrize("tau", [0.95, 0.2, -0.5])
def test_neighbours_keep_the_norm_and_have_the_cosine(tau):
    pivot = torch.randn(1, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dice = torch.Generator().manual_seed(1)
    found = [neighbour(pivot, tau, dice).flatten() for _ in range(3)]
    axis = pivot.flatten()
    for other in found:
        close(other.norm(), axis.norm())
        close(other @ axis / axis.norm() ** 2, torch.tensor(tau, dtype=torch.float64))
    # their directions away from the pivot are independent
    away = [other - tau * axis for other in found]
    assert abs(away[0] @ away[1]) / (away[0].norm() * away[1].norm()) < 0.15


def test_neighbours_are_noise_with_the_dtype_of_the_pivot():
    pivot = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    found = neighbour(pivot, 0.9, torch.Generator().manual_seed(1))
    assert found.dtype == torch.float32 and abs(found.std() - 1) < 0.02 and abs(found.mean()) < 0.03


def follow(history, neighbours):
    """Walk through the scores as the paper says, and check the pivot of each round; return those drawn."""
    place, score, pivot, drawn = 0, None, 0, 0
    while place < len(history):
        new = score is None
        block = history[place : place + neighbours + (place == 0)]
        pivot = place if new else pivot
        drawn += new
        assert [c.origin for c in block] == [None if c.place == pivot else pivot for c in block]
        best = max(block, key=lambda c: c.score)
        if best.place == pivot or (not new and best.score <= score):
            score = None
        else:
            pivot, score = best.place, best.score
        place += len(block)
    return drawn


def test_pivots_move_to_the_best_or_are_drawn_again():
    drawn = 0
    for seed in range(4):
        result = sample(ZeroOrder(rewards=redness, neighbours=2, rounds=4), seed=seed, num_inference_steps=2)
        assert len(result.history) == 9 and result.scores[0] == max(c.score for c in result.history)
        drawn += follow(result.history, 2)
    assert 4 < drawn < 4 * 5  # both cases came


def test_the_search_beats_the_plain_picture_and_can_be_made_again():
    pipe = sd3.pipeline()
    plain = sample(BestOfN(rewards=redness, n=1), pipe=pipe)
    result = sample(ZeroOrder(rewards=redness), pipe=pipe)
    assert result.history[0].score == pytest.approx(float(plain.scores), abs=1e-4)
    assert result.scores > plain.scores
    call = dict(height=16, width=16, max_sequence_length=16, num_inference_steps=10, guidance_scale=3.0)
    again = pipe("a red circle", latents=result.noise, output_type="pt", **call).images
    alike(result.images, again)


@pytest.mark.parametrize("name", ["sd", "flux", "wan"])
def test_costs_are_those_of_the_denoiser(name):
    found, pipe = built(name)
    rows = counted(pipe, found.layer)
    result = on(found, ZeroOrder(rewards=redness, neighbours=2, rounds=2), pipe=pipe, steps=2)
    assert sum(rows) == result.nfe == 5 * 2 * 2 and result.scored == 5


@pytest.mark.parametrize("budget, candidates", [(4, 1), (15, 3), (35, 8), (1000, 9)])
def test_a_budget_ends_the_rounds(budget, candidates):
    sampler = ZeroOrder(rewards=redness, neighbours=2, rounds=4, budget=budget)
    result = sample(sampler, num_inference_steps=2)
    assert len(result.history) == candidates and result.nfe == 4 * candidates <= budget


def test_one_candidate_is_the_plain_picture():
    pipe = sd3.pipeline()
    a = sample(ZeroOrder(rewards=redness, budget=20), pipe=pipe)
    assert torch.equal(a.images, sample(BestOfN(rewards=redness, n=1), pipe=pipe).images)


def test_each_prompt_has_a_pivot_of_its_own():
    pipe = sd3.pipeline()
    both = sample(ZeroOrder(rewards=redness, rounds=2), ["a", "b"], pipe=pipe, num_inference_steps=2)
    alone = sample(ZeroOrder(rewards=redness, rounds=2), "a", pipe=pipe, num_inference_steps=2)
    alike(both.images[:1], alone.images)
    assert [c.origin for c in both.history if c.prompt == 0] == [c.origin for c in alone.history]


def test_groups_of_any_size_find_the_same():
    pipe = sd3.pipeline()
    results = [
        sample(ZeroOrder(rewards=redness, rounds=2, micro_batch=m), pipe=pipe, num_inference_steps=3)
        for m in (None, 2)
    ]
    alike(results[0].images, results[1].images)


def test_a_search_that_is_stopped_gives_what_it_has():
    calls = []

    def counting(images, prompts):
        calls.append(1)
        return redness(images, prompts)

    result = sample(
        ZeroOrder(rewards=counting, rounds=4), stop=lambda: len(calls) >= 2, num_inference_steps=2
    )
    assert result.stopped == "someone asked to stop" and len([c for c in result.history if c.score]) == 9


@pytest.mark.parametrize("call", [1, 3])
def test_the_pipeline_stays_as_it_was(call):
    pipe = sd3.pipeline()
    with unchanged(pipe), pytest.raises(RuntimeError, match="broken"):
        sample(ZeroOrder(rewards=failing_at(call)), pipe=pipe, num_inference_steps=2)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(tau=1.0), "tau is a cosine between -1 and 1, got 1.0"),
        (dict(tau=1.5), "tau must"),
        (dict(neighbours=0), "neighbours must be 1 or more, got 0"),
        (dict(rounds=0), "rounds must be 1 or more, got 0"),
        (dict(budget=3), "zero-order needs 20 evaluations for one candidate, got budget=3"),
    ],
)
def test_bad_settings_in_a_sentence(given, says):
    with pytest.raises(MethodError, match=says):
        sample(ZeroOrder(rewards=redness, **given))
