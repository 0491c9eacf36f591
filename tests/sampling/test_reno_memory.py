"""Bytes at the peak of an iteration, by option."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.sampling.reno_memory import NONE, _peak
from tests.hosts import built
from tests.sampling.test_reno_levers import Fits
from tests.sampling.test_reno_view import red


def measured(name="sd", rewards=red, steps=2, **call):
    host, pipe = built(name)
    sampler = dx.ReNO(rewards=rewards)
    call = host.size | host.extra | host.unguided | call
    flags = [p.requires_grad for p in pipe.vae.parameters()]
    found = sampler.memory(pipe, "a red circle", num_inference_steps=steps, **call)
    assert [p.requires_grad for p in pipe.vae.parameters()] == flags
    return found


def once(pipe, rewards, options=None, **call):
    sampler = dx.ReNO(rewards=rewards, iterations=2, **NONE | (options or {}))
    return _peak(sampler, pipe, "a red circle", {"progress": False, **call})


def test_each_option_lowers_what_it_is_for():
    found = measured(height=32, width=64)
    assert set(found) == {
        "as set",
        "none",
        "checkpoint_denoiser",
        "checkpoint_decoder",
        "checkpoint_rewards",
        "one_by_one",
        "grad_steps=1",
    }
    assert max(found["checkpoint_denoiser"], found["grad_steps=1"]) < 0.8 * found["none"]
    assert found["checkpoint_decoder"] < found["none"]
    assert found["as set"] == pytest.approx(found["one_by_one"], rel=0.02)


def test_rewards_one_by_one_do_not_add_up():
    host, pipe = built("sd")
    call = dict(num_inference_steps=1, guidance_scale=1.0, **host.size)
    rewards = [Fits(), Fits()]
    usual = once(pipe, rewards, **call)
    assert once(pipe, rewards, dict(one_by_one=True), **call) < usual
    assert once(pipe, rewards, dict(checkpoint_rewards=True), **call) < usual


def test_a_larger_picture_takes_more_and_weights_do_not_count():
    _, pipe = built("sd")
    call = dict(num_inference_steps=1, guidance_scale=1.0)
    small, large = (once(pipe, red, **call, height=side, width=side) for side in (32, 64))
    weights = sum(p.nbytes for p in pipe.unet.parameters())
    assert 2.5 * small < large < 6 * small and small > weights / 10


def test_options_that_a_model_does_not_have_are_left_out():
    found = measured("wan", steps=1, num_frames=1)
    assert "checkpoint_decoder" not in found and "checkpoint_denoiser" in found


def test_the_peak_is_that_of_tensors_that_are_held():
    host, pipe = built("sd")
    size = 3 * 2**20

    def holds(images, prompts):
        ballast = torch.ones(size // 4)
        return red(images, prompts) * ballast.mean()

    call = dict(num_inference_steps=1, guidance_scale=1.0, **host.size)
    with_it, without = (once(pipe, reward, **call) for reward in (holds, red))
    assert with_it - without == pytest.approx(size, rel=0.3)
