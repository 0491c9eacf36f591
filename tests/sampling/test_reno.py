"""ReNO as a sampler: the pipeline's own pictures, budgets, other pipelines, and what is refused."""

import time

import pytest
import torch
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.errors import MethodError, UnsupportedError
from tests.close import alike
from tests.hosts import HOSTS, built
from tests.sampling.test_reno_view import clip, fits, red
from tests.tiny_models import unet

WORDS = "a red circle"
# A pipeline that takes a picture draws from the generator for it before it draws its noise.
of_text = pytest.mark.parametrize("host", [h for h in HOSTS if "image" not in h.extra], ids=lambda h: h.name)


def call_of(host, steps=1):
    return dict(num_inference_steps=max(steps, host.least_steps), **host.size, **host.extra, **host.unguided)


def sample(pipe, host, rewards=red, prompt=WORDS, *, seed=0, steps=1, call=None, **options):
    sampler = dx.ReNO(rewards=rewards, **dict(iterations=3) | options)
    generator = torch.Generator().manual_seed(seed)
    return sampler.sample(
        pipe, prompt, generator=generator, output_type="pt", **call_of(host, steps) | (call or {})
    )


def plain(pipe, host, steps=1, **call):
    generator = torch.Generator().manual_seed(0)
    return pipe(
        prompt=WORDS, generator=generator, output_type="pt", return_dict=False, **call_of(host, steps) | call
    )[0]


@of_text
def test_the_first_picture_is_the_plain_one_and_gradients_reach_its_noise(host):
    pipe = host.build()
    shown = []

    def watched(images, prompts):
        shown.append(images.detach().clone())
        return red(images, prompts)

    found = sample(pipe, host, watched, iterations=2)
    stock = plain(pipe, host)
    if host.video:
        frames = stock[0, torch.linspace(0, stock.shape[1] - 1, len(shown[0])).round().long()]
    assert torch.equal(shown[0], frames if host.video else stock)
    first, second = found.history
    assert second.score > first.score and found.gradients == found.nfe // 2
    assert found.images.shape == stock.shape and not torch.equal(found.images, stock)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "wan"])
def test_one_iteration_is_the_plain_picture(name):
    host, pipe = built(name)
    found = sample(pipe, host, iterations=1)
    assert torch.equal(found.images, plain(pipe, host))
    assert (found.nfe, found.gradients, found.seeds) == (1, 0, (0,))


def test_the_same_noise_makes_the_same_picture():
    host, pipe = built("sd")
    found = sample(pipe, host)
    again = pipe(WORDS, latents=found.noise, output_type="pt", **call_of(host)).images
    assert torch.equal(again, found.images)


def test_noise_of_the_scheduler_is_the_same_each_time():
    from diffusers import EulerAncestralDiscreteScheduler

    host, pipe = built("sd")
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    found = sample(pipe, host, steps=3)
    assert [tried.score for tried in found.history] == sorted(tried.score for tried in found.history)
    again = pipe(
        WORDS, latents=found.noise, generator=found.states[0], output_type="pt", **call_of(host, 3)
    ).images
    assert torch.equal(again, found.images)
    assert torch.equal(sample(pipe, host, steps=3, iterations=1).images, plain(pipe, host, 3))


@pytest.mark.parametrize("cfg", [False, True])
def test_several_steps_climb(cfg):
    host, pipe = built("sd")
    call = host.guided if cfg else {}
    full = sample(pipe, host, steps=3, call=call)
    short = sample(pipe, host, steps=3, call=call, grad_steps=1)
    for found in (full, short):
        way = [tried.score for tried in found.history]
        assert way == sorted(way) and way[0] < way[-1]
    assert (full.nfe, full.gradients) == (9 * (1 + cfg), 6 * (1 + cfg))
    assert (short.nfe, short.gradients) == (9 * (1 + cfg), 2 * (1 + cfg))


@pytest.mark.parametrize(("budget", "iterations"), [(1, 1), (3, 1), (4, 2), (7, 3), (8, 3), (100, 5)])
def test_a_budget_counts_a_row_that_is_propagated_back_three_times(budget, iterations):
    host, pipe = built("sd")
    found = sample(pipe, host, iterations=5, budget=budget)
    assert len(found.history) == iterations and found.cost == 3 * iterations - 2 <= budget
    assert found.stopped == (None if iterations == 5 else f"its budget of {budget} evaluations is spent")


def test_extra_passes_of_a_session_count():
    host, pipe = built("sd")
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None}, scale=2.0)):
        found = sample(pipe, host, budget=11, iterations=9)
        stock = plain(pipe, host)
        only = sample(pipe, host, iterations=1)
    assert torch.equal(only.images, stock) and only.nfe == 2
    assert (found.nfe, found.gradients, len(found.history)) == (4, 2, 2)
    assert found.stopped == "its budget of 11 evaluations is spent"
    assert found.history[1].score > found.history[0].score
    alike(plain(pipe, host), sample(pipe, host, iterations=1).images)


def test_time_and_a_wish_to_stop_keep_the_best_so_far():
    host, pipe = built("sd")
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 4

    sampler = dx.ReNO(rewards=red, iterations=50)
    found = sampler.sample(pipe, WORDS, stop=stop, output_type="pt", **call_of(host))
    assert found.stopped == "someone asked to stop" and len(found.history) < 5
    assert float(found.scores[0]) == max(tried.score for tried in found.history)

    def slow(images, prompts):
        time.sleep(0.05)
        return red(images, prompts)

    late = sample(pipe, host, slow, iterations=1000, seconds=0.3)
    assert late.stopped == "its 0.3 seconds are over" and len(late.history) < 1000


def test_progress_counts_iterations():
    host, pipe = built("sd")
    states = []
    sampler = dx.ReNO(rewards=red, iterations=3)
    sampler.sample(pipe, WORDS, progress=states.append, **call_of(host))
    assert {(s.step, s.steps, s.planned) for s in states} == {(i, 3, 7) for i in (1, 2, 3)}
    assert states[-1].evaluations == 7


def test_another_pipeline_draws_from_the_best_noise():
    host, pipe = built("sd")
    other = built("sd")[1]
    found = sample(
        pipe, host, transfer=other, transfer_call={"num_inference_steps": 3, "guidance_scale": 1.0}
    )
    alone = sample(pipe, host)
    wanted = other(
        WORDS, latents=alone.noise, num_inference_steps=3, guidance_scale=1.0, output_type="pt", **host.size
    ).images
    assert torch.equal(found.images, wanted) and torch.equal(found.noise, alone.noise)
    assert float(found.scores[0]) == pytest.approx(float(red(wanted, [])[0]), abs=1e-6)
    assert found.nfe == alone.nfe + 3 and found.history[-1].score == float(alone.scores[0])


def test_a_pipeline_with_other_latents_is_refused_before_anything_runs():
    host, pipe = built("sd")
    calls = []
    with pytest.raises(
        MethodError, match=r"the shape \[1, 4, 16, 16\] of this one, got Stable.*\[1, 4, 8, 8\]"
    ):
        sample(
            pipe,
            host,
            lambda images, prompts: calls.append(1),
            transfer=built("sd")[1],
            transfer_call={"height": 16, "width": 16},
        )
    assert not calls


class Checker(torch.nn.Module):
    """Blackens pictures, as a safety checker of diffusers does."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, images, clip_input):
        return torch.zeros_like(images), [True] * len(images)


class Reader:
    def __call__(self, images, return_tensors):
        class Read:
            pixel_values = torch.zeros(len(images), 3, 8, 8)

            def to(self, device):
                return self

        return Read()


@pytest.mark.parametrize("budget", [None, 6])
def test_a_safety_checker_sees_what_is_returned(budget):
    host, pipe = built("sd")
    pipe.safety_checker, pipe.feature_extractor = Checker(), Reader()
    found = sample(pipe, host, budget=budget)
    assert (found.images == 0.5).all() or (found.images == 0).all()
    free = built("sd")[1]
    alone = sample(free, host, budget=None if budget is None else budget - 1)
    assert torch.equal(found.noise, alone.noise) and found.cost == alone.cost + 1
    assert budget is None or found.cost <= budget
    assert torch.equal(found.scores, alone.scores), "the score is that of the picture before the check"


def test_pictures_that_no_safety_checker_saw_are_not_returned():
    host, pipe = built("sd")
    pipe.safety_checker, pipe.feature_extractor = Checker(), Reader()
    calls = []

    def interrupt(pipe, step, timestep, state):
        calls.append(step)
        pipe._interrupt = len(calls) > 2
        return state

    with pytest.raises(MethodError, match=r"before one picture .* since a callback interrupted the pipeline"):
        sample(pipe, host, steps=2, call={"callback_on_step_end": interrupt})
    assert calls == [0, 1, 0, 0], "one iteration was scored, and the picture of its noise was to be drawn"


def test_a_watermark_is_on_what_is_returned():
    host, pipe = built("sdxl")

    class Mark:
        def apply_watermark(self, images):
            return images.clamp(max=0)

    clean = sample(pipe, host)
    pipe.watermark = Mark()
    found = sample(pipe, host)
    assert torch.equal(found.images, clean.images.clamp(max=0.5)) and found.cost == clean.cost + 1


def test_it_refines_the_winner_of_another_sampler():
    host, pipe = built("sd")
    both = dx.BestOfN(rewards=red, n=4, refine=dx.ReNO(iterations=3))
    generator = torch.Generator().manual_seed(0)
    found = both.sample(pipe, WORDS, generator=generator, output_type="pt", **call_of(host))
    first = [tried for tried in found.history if hasattr(tried, "place")]
    climbed = [tried for tried in found.history if hasattr(tried, "iteration")]
    best = max(tried.score for tried in first)
    assert climbed[0].score == pytest.approx(best, rel=1e-5) and len(climbed) == 3
    assert float(found.scores[0]) == max(tried.score for tried in climbed) > best
    assert found.cost == 4 + 7
    again = pipe(WORDS, latents=found.noise, output_type="pt", **call_of(host)).images
    assert torch.equal(again, found.images)


def test_noise_is_transformed_first():
    host, pipe = built("sd")
    seen = []

    def half(call, noise):
        seen.append(noise.shape)
        return noise / 2

    found = sample(pipe, host, noise=half)
    first = sample(pipe, host, iterations=1)
    assert len(seen) == 1
    assert found.history[0].norm == pytest.approx(float(first.noise.norm()) / 2, rel=1e-5)


def test_it_works_without_gradients_outside():
    host, pipe = built("sd")
    usual = sample(pipe, host)
    with torch.no_grad():
        assert torch.equal(sample(pipe, host).noise, usual.noise)
    reward = fits(clip())
    with torch.inference_mode():
        found = sample(pipe, host, reward)
    assert found.gradients == 2
    assert torch.is_grad_enabled()


def test_the_pipeline_stays_as_it_is():
    host, pipe = built("sd")
    before = plain(pipe, host)
    parts = dict(vars(pipe))
    scheduler = dict(vars(pipe.scheduler))
    sample(pipe, host, checkpoint_denoiser=True, checkpoint_decoder=True)
    assert dict(vars(pipe)) == parts and dict(vars(pipe.scheduler)).keys() == scheduler.keys()
    assert "forward" not in vars(pipe.unet) and not hasattr(pipe.unet, "_diffusers_hook")
    assert torch.equal(plain(pipe, host), before)


def test_half_precision_has_noise_in_full():
    host, pipe = built("sd")
    pipe.to(torch.bfloat16)
    found = sample(pipe, host, iterations=6)
    assert found.noise.dtype is torch.float32 and found.images.dtype is torch.bfloat16
    assert float(found.scores[0]) > found.history[0].score
    assert torch.equal(sample(pipe, host, iterations=1).images, plain(pipe, host))


def test_pictures_of_pil_are_the_usual_output():
    host, pipe = built("sd")
    made = dx.ReNO(rewards=red, iterations=2).sample(pipe, [WORDS, "a star"], **call_of(host))
    assert [type(image) for image in made.images] == [Image.Image] * 2
    assert dx.ReNO(rewards=red) == dx.ReNO(rewards=red, iterations=50, lr=5.0)


BAD = [
    (dict(iterations=0), "iterations must be 1 or more, got 0: iterations of each prompt"),
    (dict(momentum=1.5), "momentum must be from 0.0 to 1.0, got 1.5"),
    (dict(norm_weight=-1.0), "norm_weight must be 0.0 or more"),
    (dict(patience=0), "patience must be 1 or more"),
    (dict(grad_steps=0), "grad_steps must be 1 or more"),
    (dict(lr=0.0), "lr and clip must be above 0, got 0, which never moves"),
    (dict(clip=0.0), "lr and clip must be above 0"),
    (dict(optimizer="lbfgs"), "sgd"),
    (dict(offload_rewards=True, one_by_one=False), "needs one_by_one=True, got one_by_one=False"),
    (dict(transfer_call=3), "transfer_call holds arguments of the other pipeline by name, got 3"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: "")
def test_settings_out_of_bounds_are_one_sentence(options, message):
    with pytest.raises(MethodError, match=message) as error:
        dx.ReNO(rewards=red, **options)
    assert str(error.value).count(". ") == 0


def test_rewards_without_gradients_are_refused_before_anything_runs():
    host, pipe = built("sd")
    calls = []

    def pil(images, prompts):
        calls.append(1)
        return [0.0] * len(images)

    reward = dx.rewards.CallableReward(pil, pil=True)
    with pytest.raises(
        MethodError, match="ReNO moves noise along the gradient of rewards, and 'pil' has none"
    ):
        sample(pipe, host, [red, reward])
    assert not calls
    assert len(sample(pipe, host, reward, fresh=True).history) == len(calls) == 3
    assert sample(pipe, host, reward, iterations=1).nfe == 1


def test_latents_of_another_shape_are_refused():
    host, pipe = built("sd")
    with pytest.raises(MethodError, match=r"have the shape \[1, 4, 16, 16\], one for each prompt, got"):
        sample(pipe, host, call={"latents": torch.zeros(1, 4, 8, 8)})
    with pytest.raises(MethodError, match="latents must be finite"):
        sample(pipe, host, call={"latents": torch.full((1, 4, 16, 16), torch.nan)})


def test_a_budget_below_one_picture_is_refused():
    host, pipe = built("sd")
    with pytest.raises(MethodError, match="reno needs 6 evaluations for one candidate, got budget=5"):
        sample(pipe, host, budget=5, steps=3, call=host.guided)


def test_a_pipeline_without_an_autoencoder_is_refused():
    host, pipe = built("sd")
    pipe.vae = None
    with pytest.raises(UnsupportedError, match="without one; load the pipeline with its vae"):
        sample(pipe, host)


def test_a_session_of_sparse_attention_is_climbed():
    host, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(radius=2, backend="reference")):
        found = sample(pipe, host)
        again = pipe(WORDS, latents=found.noise, output_type="pt", **call_of(host)).images
    assert found.history[-1].score > found.history[0].score
    assert torch.equal(again, found.images)


def test_a_prompt_of_other_words_changes_nothing_of_the_first():
    pipe, host = unet.pipeline(), built("sd")[0]
    found = sample(pipe, host, prompt=[WORDS, "a blue star"])
    alike(found.noise[:1], sample(pipe, host).noise)


def test_it_refines_the_survivor_of_a_pruned_search():
    host, pipe = built("sd")
    search = dx.TTSnap(rewards=red, n=4, refine=dx.ReNO(iterations=3))
    generator = torch.Generator().manual_seed(0)
    found = search.sample(pipe, WORDS, generator=generator, output_type="pt", **call_of(host, 4))
    climbed = [tried for tried in found.history if hasattr(tried, "iteration")]
    survivors = [
        tried.score for tried in found.history if hasattr(tried, "place") and tried.score is not None
    ]
    assert climbed[0].score == pytest.approx(max(survivors), rel=1e-4)
    assert float(found.scores[0]) == max(tried.score for tried in climbed) > max(survivors)
