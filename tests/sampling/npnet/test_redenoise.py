"""Pairs of noise and better noise: the step back undoes the step forward."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

from diffusers_ext.errors import UnsupportedError
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.npnet.redenoise import first_step, re_denoise, undo
from tests.close import alike, close
from tests.hosts import built, every_call

NAMES = ["sd", "sdxl", "sd3", "flux", "wan", "hunyuan-video", "mochi"]


def call_of(name, prompts=("a red circle", "a blue star"), **change):
    """The call of a tiny pipeline, and candidates of its prompts."""
    found, pipe = built(name)
    kind = {k: v for k, v in found.guided.items() if k == "negative_prompt"}
    host = HostCall(
        pipe,
        list(prompts),
        [torch.Generator().manual_seed(i) for i in range(len(prompts))],
        **found.size | found.extra | kind | change,
    )
    host.pipe.set_progress_bar_config(disable=True)
    return host, host.draw(1)


@pytest.mark.parametrize("name", NAMES)
def test_equal_scales_and_one_prediction_give_the_noise_back(name):
    host, starts = call_of(name)
    step = first_step(host, starts, num_inference_steps=4)
    assert (step.after - step.sample).abs().max() > 1e-4
    close(undo(step, step.prediction), step.sample.float(), level=256)


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_differs_by_the_difference_of_two_predictions(name):
    """The oracle runs the pipeline itself for one step, and asks the denoiser twice."""
    host, starts = call_of(name)
    golden = re_denoise(host, starts, steps=4, w_denoise=5.5, w_invert=1.0)
    assert golden.shape == starts.noise.shape and torch.isfinite(golden).all()
    other = re_denoise(host, starts, steps=4, w_denoise=2.0, w_invert=1.0)
    assert (golden - starts.noise).abs().max() > 1e-3
    assert (golden - other).abs().max() > 1e-4


def test_ddim_agrees_with_its_formula():
    """Closed form of DDIM and its inverse at one timestep, for a model that predicts noise."""
    host, starts = call_of("sd")
    x = starts.noise
    with torch.no_grad():
        x1 = denoised(host, x, 5.5)
        scheduler = host.pipe.scheduler
        a0, a1 = scheduler.alphas_cumprod[751], scheduler.alphas_cumprod[501]
        e = predicted(host, x1, 751)
        wanted = (x1 - (1 - a1).sqrt() * e) / a1.sqrt() * a0.sqrt() + (1 - a0).sqrt() * e
    got = re_denoise(host, starts, steps=4, w_denoise=5.5, w_invert=1.0)
    alike(got, wanted, level=4096)


def predicted(host, x, t):
    """What the U-Net predicts with the prompts alone."""
    pipe = host.pipe
    text, _ = pipe.encode_prompt(host.prompts, "cpu", 1, False)
    return pipe.unet(x, t, text).sample


def denoised(host, x, scale):
    """Latents after the first of four guided steps, by the formula of DDIM."""
    pipe = host.pipe
    text, empty = pipe.encode_prompt(host.prompts, "cpu", 1, True)
    a0, a1 = (DDIMScheduler.from_config(pipe.scheduler.config).alphas_cumprod[t] for t in (751, 501))
    bare, given = pipe.unet(x, 751, empty).sample, pipe.unet(x, 751, text).sample
    e = bare + scale * (given - bare)
    return (x - (1 - a0).sqrt() * e) / a0.sqrt() * a1.sqrt() + (1 - a1).sqrt() * e


def test_flow_matching_agrees_with_its_formula():
    host, starts = call_of("sd3")
    step = first_step(host, starts, num_inference_steps=4)
    sigmas = host.pipe.scheduler.sigmas
    assert step.keep == pytest.approx(1.0)
    assert step.push == pytest.approx(float(sigmas[1] - sigmas[0]))


def test_noise_that_a_pipeline_scales_keeps_its_unit():
    """Euler of SDXL multiplies what it is given by the largest sigma."""
    host, starts = call_of("sdxl")
    step = first_step(host, starts, num_inference_steps=4)
    unit = step.sample.norm() / starts.noise.norm()
    assert unit > 4
    golden = re_denoise(host, starts, steps=4)
    assert abs(golden.std() - 1) < 0.3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_and_a_solver_can_be_undone(prediction):
    host, starts = call_of("sd")
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler):
        host.pipe.scheduler = kind.from_config(host.pipe.scheduler.config, prediction_type=prediction)
        step = first_step(host, starts, num_inference_steps=4)
        close(undo(step, step.prediction), step.sample, level=1024)


def test_the_pipeline_stays_as_it_was():
    found, pipe = built("sd")
    scheduler, before = pipe.scheduler, found.run(pipe)
    host = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **found.size)
    host.pipe.set_progress_bar_config(disable=True)
    re_denoise(host, host.draw(1), steps=4)
    assert pipe.scheduler is scheduler and "step" not in vars(scheduler)
    assert "step" not in vars(host.pipe.scheduler)
    assert torch.equal(found.run(pipe), before)


def test_rows_of_a_batch_do_not_mix():
    host, starts = call_of("sd3")
    both = re_denoise(host, starts, steps=4)
    for i, prompt in enumerate(host.prompts):
        alone, _ = call_of("sd3", (prompt,))
        alike(re_denoise(alone, starts.take([i]), steps=4)[0], both[i])


def test_a_scheduler_that_draws_noise_is_refused():
    host, starts = call_of("sd")
    host.pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(host.pipe.scheduler.config)
    with pytest.raises(UnsupportedError, match="EulerAncestralDiscreteScheduler cannot be undone"):
        re_denoise(host, starts, steps=4)


def test_a_pipeline_without_guidance_is_refused():
    found, pipe = built("flux")
    host = HostCall(pipe, "a red circle", **found.size | found.extra)
    with pytest.raises(UnsupportedError, match=r"FluxPipeline has none; give a negative_prompt"):
        re_denoise(host, host.draw(1))


@every_call
def test_it_runs_on_every_call(host):
    pipe = host.build()
    kind = {k: v for k, v in host.guided.items() if k == "negative_prompt"}
    call = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **host.size | host.extra | kind)
    call.pipe.set_progress_bar_config(disable=True)
    starts = call.draw(1)
    golden = re_denoise(call, starts, steps=4)
    assert golden.shape == starts.noise.shape and 0 < (golden - starts.noise).abs().max() < 10
