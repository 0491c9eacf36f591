"""Steps with fresh noise keep the distribution of the forward process, and are those of DDIM."""

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler

from diffusers_ext.sampling.estimate import Mix
from diffusers_ext.sampling.renoise import ancestral, back, copy_rows

from ..close import close

MIXES = [(Mix(0.4, 0.6), Mix(0.7, 0.3)), (Mix(0.6, 0.8), Mix(0.8, 0.6)), (Mix(1.0, 3.0), Mix(1.0, 1.5))]


def noise(seed, count=200_000):
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("now, then", MIXES)
def test_a_step_ends_at_the_noise_of_the_next(now, then, eta):
    clean = torch.full_like(noise(0), 2.0)
    made = ancestral(clean, noise(0), now, then, noise(1), eta)
    assert made.mean() == pytest.approx(2 * then.signal, abs=0.02)
    assert made.std() == pytest.approx(then.noise, rel=0.01)


def test_without_fresh_noise_it_is_the_deterministic_step():
    now, then = MIXES[0]
    made = ancestral(torch.ones(5), torch.ones(5), now, then, torch.full((5,), 9.0), 0.0)
    close(made, torch.full((5,), then.signal + then.noise))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_it_is_the_step_of_ddim(eta):
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    here, there = scheduler.timesteps[4], scheduler.timesteps[5]
    sample, prediction, fresh = (noise(i, 64).view(1, 4, 4, 4) for i in range(3))
    wanted = scheduler.step(prediction, here, sample, eta=eta, variance_noise=fresh)
    mixes = [
        Mix(float(a) ** 0.5, float(1 - a) ** 0.5)
        for a in (scheduler.alphas_cumprod[t] for t in (here, there))
    ]
    made = ancestral(wanted.pred_original_sample, prediction, *mixes, fresh, eta)
    close(made, wanted.prev_sample, 64, dtype=torch.float32)


@pytest.mark.parametrize("then, now", MIXES)
def test_going_back_ends_at_the_noise_of_that_place(now, then):
    sample = 2 * now.signal + now.noise * noise(0)
    made = back(sample, now, then, noise(1))
    assert made.mean() == pytest.approx(2 * then.signal, abs=0.02)
    assert made.std() == pytest.approx(then.noise, rel=0.01)


def test_going_back_by_nothing_changes_nothing():
    sample = noise(0, 9)
    close(back(sample, Mix(0.4, 0.6), Mix(0.4, 0.6), noise(1, 9)), sample)


def test_rows_of_a_scheduler_are_copied():
    scheduler = UniPCMultistepScheduler()
    scheduler.set_timesteps(6)
    sample = noise(0, 12).view(3, 4)
    for timestep in scheduler.timesteps[:3]:
        sample = scheduler.step(noise(int(timestep), 12).view(3, 4), timestep, sample).prev_sample
    before = [value.clone() for value in scheduler.model_outputs], scheduler.last_sample.clone()
    sigmas = scheduler.sigmas
    copy_rows(scheduler, [2, 1, 2], sample.shape)
    for value, old in zip(scheduler.model_outputs, before[0], strict=True):
        assert torch.equal(value, old[[2, 1, 2]])
    assert torch.equal(scheduler.last_sample, before[1][[2, 1, 2]]) and scheduler.sigmas is sigmas
