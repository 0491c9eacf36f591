"""Estimates of the finished latents, against what diffusers returns and against exact predictions."""

import inspect

import diffusers
import pytest
import torch

from diffusers_ext.errors import UnsupportedError
from diffusers_ext.sampling.estimate import Mix, StepWatch, clean, mix_of

from ..close import alike, close

ALPHAS = ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler"]
SIGMAS = [
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
]
SOLVERS = [
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
]
FLOWS = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]
PREDICTIONS = ["epsilon", "v_prediction"]


def made(name, **config):
    kind = getattr(diffusers, name)
    if (
        "clip_sample" in inspect.signature(kind).parameters
    ):  # it would change the picture, which is noise here
        config["clip_sample"] = False
    scheduler = kind(**config)
    scheduler.set_timesteps(6)
    return scheduler


def truth():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)


def predicted(kind, signal, noise, picture, gaussian):
    """What a perfect network answers for a sample of this mix."""
    scale = (signal**2 + noise**2) ** -0.5
    if kind == "flow_prediction":
        return gaussian - picture
    return gaussian if kind == "epsilon" else scale * (signal * gaussian - noise * picture)


def first_step(scheduler, kind):
    """Step once with the prediction of a perfect network; return the watch and the picture."""
    picture, gaussian = truth()
    watch = StepWatch(scheduler)
    first = scheduler.timesteps[0]
    # The mix is known after a step, so a first step on a copy says how noisy the start is.
    probe = type(scheduler).from_config(scheduler.config)
    probe.set_timesteps(6)
    look = StepWatch(probe)
    probe.step(torch.zeros_like(picture), first, torch.zeros_like(picture))
    mix = look.mix
    sample = mix.signal * picture + mix.noise * gaussian
    scheduler.step(predicted(kind, mix.signal, mix.noise, picture, gaussian), first, sample)
    return watch, picture


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", ALPHAS + SIGMAS + SOLVERS)
def test_a_perfect_prediction_gives_the_picture(name, kind):
    watch, picture = first_step(made(name, prediction_type=kind), kind)
    # At the first step nearly all is noise, which the division by the signal magnifies.
    alike(watch.clean(), picture, level=100_000 if kind == "epsilon" else 5_000)
    alike(watch.clean([1]), picture[[1]], level=100_000)
    assert 0.5 < watch.mix.level < 1


@pytest.mark.parametrize("name", FLOWS)
def test_a_perfect_velocity_gives_the_picture(name):
    watch, picture = first_step(made(name, shift=3.0), "flow_prediction")
    close(watch.clean(), picture)


def test_a_solver_in_flow_matching():
    config = dict(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    watch, picture = first_step(made("UniPCMultistepScheduler", **config), "flow_prediction")
    close(watch.clean(), picture)
    close(torch.tensor(watch.mix.signal + watch.mix.noise), torch.tensor(1.0))


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_our_formula_is_that_of_diffusers(name, kind):
    scheduler = made(name, prediction_type=kind)
    sample, prediction = truth()
    for timestep in scheduler.timesteps:
        out = scheduler.step(prediction, timestep, sample)
        ours = clean(scheduler, mix_of(scheduler, timestep), prediction, sample)
        alike(ours, out.pred_original_sample)
        sample = out.prev_sample


def test_steps_are_as_without_the_watch():
    sample, prediction = truth()
    plain, watched = made("EulerDiscreteScheduler"), made("EulerDiscreteScheduler")
    StepWatch(watched)
    for timestep in plain.timesteps:
        a = plain.step(prediction, timestep, sample, return_dict=False)
        b = watched.step(prediction, timestep, sample, return_dict=False)
        assert torch.equal(a[0], b[0])
        sample = a[0]


def test_levels_are_on_one_scale():
    assert Mix(1, 0).level == 0
    assert Mix(0, 1).level == 1
    assert Mix(0.7, 0.3).level == pytest.approx(0.3)
    assert Mix(1, 4).level == pytest.approx(0.8)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UnsupportedError, match=r"DDIM, DDPM.*got KarrasVeScheduler|got ScoreSdeVeScheduler"):
        StepWatch(diffusers.ScoreSdeVeScheduler())


def test_an_unknown_prediction_is_refused():
    scheduler = made("DDIMScheduler")
    scheduler.register_to_config(prediction_type="other")
    sample, prediction = truth()
    with pytest.raises(UnsupportedError, match="got a DDIMScheduler with other"):
        clean(scheduler, Mix(0.5, 0.5), prediction, sample)
