"""Best of n, and with it what every sampler promises: pictures, scores, costs, and an unchanged pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.result import joined

from ..close import alike
from ..hosts import HOSTS, built, every_call, processors
from ..tiny_models import unet

SIZE = dict(height=32, width=32, num_inference_steps=2, guidance_scale=3.0)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def sample(sampler, prompt="a red circle", seed=0, pipe=None, **more):
    pipe = pipe or unet.pipeline()
    call = {"generator": seeded(seed)[0], "progress": False} | SIZE | more
    return sampler.sample(pipe, prompt, **call)


@pytest.mark.parametrize("host", [h for h in HOSTS if "image" not in h.extra], ids=lambda h: h.name)
def test_one_candidate_is_the_plain_picture(host):
    pipe = host.build()
    asked = host.size | host.extra | host.guided | {"num_inference_steps": 2}
    plain = pipe("a red circle", generator=seeded(3)[0], output_type="pt", return_dict=False, **asked)[0]
    result = BestOfN(rewards=redness, n=1).sample(
        pipe, "a red circle", generator=seeded(3)[0], output_type="pt", progress=False, **asked
    )
    assert torch.equal(result.images, plain)
    again = pipe("a red circle", latents=result.noise, output_type="pt", return_dict=False, **asked)[0]
    assert torch.equal(result.images, again)
    assert result.seeds == (3,)


@every_call
def test_the_best_is_kept_and_can_be_made_again(host):
    pipe = host.build()
    asked = host.size | host.extra | host.unguided | {"num_inference_steps": 2}
    result = BestOfN(rewards=redness, n=4, micro_batch=3).sample(
        pipe, ["a red circle", "a"], generator=seeded(3, 4), output_type="pt", progress=False, **asked
    )
    for p in range(2):
        tried = [c for c in result.history if c.prompt == p]
        scores = [c.score for c in tried]
        assert len(scores) == 4 and result.scores[p] == max(scores)
        assert result.seeds[p] == tried[int(np.argmax(scores))].seed
    alike(score(result.images), result.scores)


def score(pictures):
    """The reward of pictures, or of videos as the mean over frames."""
    if pictures.ndim == 4:
        return redness(pictures, None)
    frames = [redness(clip[picked(len(clip))], None).mean() for clip in pictures]
    return torch.stack(frames)


def picked(count, most=8):
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def test_nothing_of_the_pipeline_changes():
    pipe = unet.pipeline()
    before = dict(vars(pipe)), processors(pipe.unet), dict(vars(pipe.scheduler)), dict(pipe.config)
    sample(BestOfN(rewards=redness, n=3), pipe=pipe)
    assert (dict(vars(pipe)), processors(pipe.unet), dict(vars(pipe.scheduler)), dict(pipe.config)) == before
    assert not pipe.unet.__dict__.get("_diffusers_hook")


def test_nothing_of_the_pipeline_changes_after_an_error():
    pipe = unet.pipeline()
    scheduler = pipe.scheduler

    def broken(images, prompts):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        sample(BestOfN(rewards=broken, n=2), pipe=pipe)
    assert pipe.scheduler is scheduler and not hasattr(pipe.unet, "_diffusers_hook")


def test_more_candidates_are_never_worse():
    found = [sample(BestOfN(rewards=redness, n=n)).scores for n in (1, 2, 6)]
    assert found[0] <= found[1] <= found[2] and found[0] < found[2]


def test_costs_are_counted():
    result = sample(BestOfN(rewards=redness, n=3))
    assert (result.nfe, result.gradients, result.cost, result.scored) == (12, 0, 12, 3)
    assert [c.evaluations for c in result.history] == [4, 4, 4]
    assert result.stopped is None and result.seconds > 0


def test_a_budget_lowers_the_number():
    result = sample(BestOfN(rewards=redness, n=8, budget=11))
    assert (result.nfe, len(result.history)) == (8, 2)


def test_a_budget_is_for_each_prompt():
    pipe = unet.pipeline()
    result = BestOfN(rewards=redness, n=8, budget=8).sample(pipe, ["a", "b"], progress=False, **SIZE)
    assert (result.nfe, len(result.history)) == (16, 4)


def test_a_request_to_stop_returns_the_best_so_far():
    asked = []

    def counting(images, prompts):
        asked.append(1)
        return redness(images, prompts)

    sampler = BestOfN(rewards=counting, n=8, seconds=1e6)
    result = sample(sampler, stop=lambda: len(asked) >= 3)
    finished = [c.score for c in result.history if c.score is not None]
    assert result.stopped == "someone asked to stop"
    assert len(finished) == 3 and result.scores[0] == max(finished)


def test_stopped_before_anything_is_finished():
    with pytest.raises(
        MethodError, match="stopped before one picture of each prompt was finished, since someone"
    ):
        sample(BestOfN(rewards=redness), stop=lambda: True)


def test_the_progress_is_told():
    seen = []
    sample(BestOfN(rewards=redness, n=2), progress=seen.append)
    last = seen[-1]
    assert (last.evaluations, last.planned, last.step, last.steps) == (8, 8, 2, 2)
    assert last.best == (max(c.score for c in last.tried),) and last.pictures[0].shape[0] == 3
    assert [s.evaluations for s in seen] == sorted(s.evaluations for s in seen)


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_pictures_in_every_form(kind):
    images = sample(BestOfN(rewards=redness, n=2), output_type=kind).images
    if kind == "pil":
        assert isinstance(images[0], Image.Image) and images[0].size == (32, 32)
    else:
        assert images.shape == ((1, 32, 32, 3) if kind == "np" else (1, 3, 32, 32))


def test_pil_pictures_are_those_of_the_pipeline():
    pipe = unet.pipeline()
    plain = pipe("a red circle", generator=seeded(3)[0], **SIZE).images[0]
    found = sample(BestOfN(rewards=redness, n=1), seed=3, pipe=pipe).images[0]
    assert np.array_equal(np.asarray(plain), np.asarray(found))


def test_several_rewards_are_weighed():
    result = sample(BestOfN(rewards=[(redness, 2.0), (lambda images, prompts: images.mean((1, 2, 3)), 0.5)]))
    first, second = result.each.values()
    alike(2 * first + 0.5 * second, result.scores)


def test_candidates_whose_reward_is_nan_are_left_out():
    calls = []

    def some(images, prompts):
        found = redness(images, prompts).clone()
        found[found.argmax()] = torch.nan
        calls.append(found)
        return found

    result = sample(BestOfN(rewards=some, n=4))
    rest = calls[0][torch.isfinite(calls[0])]
    assert torch.isfinite(result.scores).all() and float(result.scores[0]) == float(rest.max())


def test_nan_for_all_is_an_error():
    with pytest.raises(
        MethodError, match="blank gave no finite number for each of 3 candidates of 'a red circle'"
    ):
        sample(BestOfN(rewards=blank, n=3))


def blank(images, prompts):
    return torch.full((len(images),), torch.nan)


def test_equal_scores_keep_the_first():
    assert sample(BestOfN(rewards=lambda images, prompts: torch.zeros(len(images)), n=4)).seeds == (0,)


def test_finished_pictures_are_kept_if_asked():
    result = sample(BestOfN(rewards=redness, n=2, keep_pictures=True))
    assert [c.pictures[1].shape for c in result.history] == [(32, 32, 3)] * 2


def test_refining_goes_on_from_the_winner():
    pipe = unet.pipeline()
    first = sample(BestOfN(rewards=redness, n=3), pipe=pipe)
    result = sample(BestOfN(rewards=redness, n=3, refine=BestOfN(n=1)), pipe=pipe)
    # One more picture of the same noise changes nothing, and costs what a picture costs.
    assert torch.equal(result.scores, first.scores) and torch.equal(result.noise, first.noise)
    assert (result.nfe, len(result.history)) == (16, 4)
    more = sample(BestOfN(rewards=redness, n=3, refine=BestOfN(n=6)), pipe=pipe)
    assert more.scores >= first.scores


@pytest.mark.parametrize(
    "asks, stopped", [(None, None), (3, "someone asked to stop"), (5, "someone asked to stop")]
)
def test_a_request_to_stop_reaches_the_refinement(asks, stopped):
    """The search of two steps asks at each step, and more often; the first picture is there in any case."""
    pipe = unet.pipeline()
    steps = []

    def stop():
        steps.append(pipe)
        return asks is not None and len(steps) > asks + before

    first = BestOfN(rewards=redness, n=2)
    before = 0
    sample(first, pipe=pipe, stop=lambda: steps.append(pipe))
    before, steps = len(steps), []
    result = sample(replace(first, refine=BestOfN(n=4, micro_batch=1)), pipe=pipe, stop=stop)
    assert result.stopped == (None if asks is None else "someone asked to stop") and len(result.images) == 1
    assert result.scores >= sample(first, pipe=pipe).scores


def test_refining_takes_what_is_left_of_the_budget():
    result = sample(BestOfN(rewards=redness, n=3, budget=20, refine=BestOfN(n=8)))
    assert result.nfe == 12 + 8
    spent = sample(BestOfN(rewards=redness, n=3, budget=12, refine=BestOfN(n=8)))
    assert spent.nfe == 12 and spent.stopped == "its budget of 12 evaluations is spent"


def test_what_the_first_leaves_of_its_budget_goes_to_the_second():
    """One candidate takes 4 evaluations, so 12 of the first budget of 20 are spent and 8 are left."""
    result = sample(BestOfN(rewards=redness, n=3, budget=20, refine=BestOfN(n=8, budget=5)))
    assert result.nfe == 12 + 4 * ((8 + 5) // 4)
    spent = sample(BestOfN(rewards=redness, n=3, budget=12, refine=BestOfN(n=8, budget=5)))
    assert spent.nfe == 12 + 4


def test_a_search_that_is_stopped_keeps_the_groups_that_were_finished():
    asked = []

    def stop():
        return len(asked) > 0

    def scored(images, prompts):
        asked.append(len(prompts))
        return redness(images, prompts)

    result = sample(BestOfN(rewards=scored, n=6, micro_batch=2), stop=stop)
    assert result.stopped == "someone asked to stop" and asked == [2]
    assert [c.score is not None for c in result.history[:2]] == [True, True]
    assert result.scores[0] == max(c.score for c in result.history[:2])


def test_a_winner_is_not_lost_where_refining_cannot_begin():
    with pytest.warns(UserWarning, match="refine made nothing better, since best-of-n needs 4 evaluations"):
        result = sample(BestOfN(rewards=redness, n=2, refine=BestOfN(n=1, budget=1)))
    assert result.stopped.startswith("refine: best-of-n needs 4 evaluations") and len(result.history) == 2


def test_joined_results_keep_the_better_of_each_prompt():
    pipe = unet.pipeline()

    def of(seeds):
        sampler = BestOfN(rewards=redness, n=1)
        return sampler.sample(pipe, ["a", "b"], generator=seeded(*seeds), progress=False, **SIZE)

    a, b = of((0, 1)), of((2, 3))
    both = joined(a, b)
    assert torch.equal(both.scores, torch.maximum(a.scores, b.scores))
    for p in range(2):
        better = b if b.scores[p] > a.scores[p] else a
        assert both.images[p] is better.images[p] and torch.equal(both.noise[p], better.noise[p])


@pytest.mark.parametrize(
    ("made", "came"),
    [
        (lambda host, noise: None, "NoneType"),
        (lambda host, noise: noise.numpy(), "ndarray"),
        (lambda host, noise: noise[:1], r"\[1, 4, 16, 16\]"),
        (lambda host, noise: noise * torch.nan, "NaN or infinity"),
    ],
)
def test_noise_that_is_none_is_refused_before_anything_runs(made, came):
    with pytest.raises(MethodError, match=rf"it got, \[2, 4, 16, 16\], and it returned {came};"):
        sample(BestOfN(rewards=redness, n=2, noise=made))


def test_noise_may_be_changed_before_anything_runs():
    seen = []

    def other(host, noise):
        seen.append((host.prompts, tuple(noise.shape)))
        return -noise

    pipe = unet.pipeline()
    plain = sample(BestOfN(rewards=redness, n=1), pipe=pipe)
    result = sample(BestOfN(rewards=redness, n=1, noise=other), pipe=pipe)
    assert torch.equal(result.noise, -plain.noise)
    assert seen == [(["a red circle"], (1, 4, 16, 16))]


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(n=0), "BestOfN n must be 1 or more, got 0: candidates for each prompt"),
        (dict(n=2.5), "n takes a whole number"),
        (dict(micro_batch=0), "micro_batch must be 1 or more, got 0: candidates run at a time"),
        (dict(budget=0), "1 or more, got 0"),
        (dict(budget=3), "needs 4 evaluations for one candidate, got budget=3"),
        (dict(seconds=-1), "above 0"),
        (dict(refine="reno"), "refine takes a sampler, got 'reno'"),
        (dict(noise="npnet"), "noise takes a function of a call and noise, got 'npnet'"),
        (dict(refine=BestOfN(rewards=len)), "give rewards to best-of-n alone"),
        (dict(rewards=None), "reward"),
        (dict(rewards=[]), "reward"),
        (dict(rewards=[(redness, -1)]), "weight"),
    ],
)
def test_bad_settings_in_a_sentence(given, says):
    with pytest.raises(ValueError, match=says):
        sample(BestOfN(**dict(rewards=redness) | given))


def test_settings_are_given_by_name():
    with pytest.raises(
        TypeError, match=r"BestOfN takes settings by name, got <function redness.*\(rewards=\.\.\.\)"
    ):
        BestOfN(redness, n=2)


def test_bad_output_in_a_sentence():
    with pytest.raises(MethodError, match="pil, np, pt, got output_type='latent'"):
        sample(BestOfN(rewards=redness), output_type="latent")


def test_under_a_session_it_is_the_session_s_picture():
    found, pipe = built("sd3")
    asked = found.size | found.extra | found.guided | {"num_inference_steps": 2}
    with dx.apply(pipe, dx.SoftPAG(heads={found.layer: [0, 2]}, scale=2.0)):
        wanted = pipe("a", generator=seeded(3)[0], output_type="pt", return_dict=False, **asked)[0]
        result = BestOfN(rewards=redness, n=1).sample(
            pipe, "a", generator=seeded(3)[0], output_type="pt", progress=False, **asked
        )
    assert torch.equal(result.images, wanted)
    assert result.nfe == 2 * 3
