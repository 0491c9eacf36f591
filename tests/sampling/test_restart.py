"""A call that begins in the middle goes on as the call that was left there."""

import diffusers
import pytest
import torch

from diffusers_ext.errors import UnsupportedError
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.restart import beginning_at, check_restart, unscaled

from ..close import alike
from ..hosts import HOSTS, built


def middle(host, pipe, step, steps=6):
    """Latents of a call after `step`, its end, and the call."""
    asked = host.size | host.extra | host.guided | {"num_inference_steps": steps}
    call = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **asked)
    starts, seen = call.draw(2), []
    with torch.no_grad():
        end = call.run(starts, lambda i, latents: seen.append(latents.clone()))
    return call, starts, seen[step].float(), end


def resumed(call, starts, latents, step):
    with torch.no_grad(), beginning_at(call.pipe.scheduler, step):
        return call.run(starts.with_noise(unscaled(call.pipe.scheduler, step, latents)))


# The scheduler of Wan uses earlier steps, and the start of SkyReels holds a picture.
OTHERS = [h for h in HOSTS if h.name not in ("wan", "wan2.2", "skyreels")]


@pytest.mark.parametrize("host", OTHERS, ids=lambda host: host.name)
def test_the_rest_of_a_call_is_the_same(host):
    call, starts, latents, end = middle(host, host.build(), 2)
    alike(resumed(call, starts, latents, 3), end)
    assert "set_timesteps" not in vars(call.pipe.scheduler)


@pytest.mark.parametrize(
    "name", ["EulerDiscreteScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler"]
)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_the_rest_is_the_same_with_other_schedulers(name, spacing):
    host, pipe = built("sd")
    first_order = {} if name == "EulerDiscreteScheduler" else {"solver_order": 1}
    pipe.scheduler = getattr(diffusers, name).from_config(
        pipe.scheduler.config, timestep_spacing=spacing, **first_order
    )
    call, starts, latents, end = middle(host, pipe, 1, steps=4)
    alike(resumed(call, starts, latents, 2), end)


@pytest.mark.parametrize("name", ["wan", "sd"])
def test_steps_that_use_earlier_ones_begin_again(name):
    """The first step is of first order, so that the end is close and not the same."""
    host, pipe = built(name)
    if name == "sd":
        pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    call, starts, latents, end = middle(host, pipe, 2)
    found = resumed(call, starts, latents, 3)
    assert 0 < (found - end).abs().max() < 0.2 * end.abs().max()


def test_a_schedule_is_as_before_afterwards():
    host, pipe = built("sd3")
    call, starts, latents, end = middle(host, pipe, 2)
    resumed(call, starts, latents, 3)
    with torch.no_grad():
        assert torch.equal(call.run(starts), end)


@pytest.mark.parametrize(
    "name",
    ["HeunDiscreteScheduler", "PNDMScheduler", "KDPM2DiscreteScheduler", "DPMSolverSinglestepScheduler"],
)
def test_steps_that_need_the_call_before_are_refused(name):
    with pytest.raises(UnsupportedError, match=f"schedulers of one call a step, got {name}"):
        check_restart(getattr(diffusers, name)())
