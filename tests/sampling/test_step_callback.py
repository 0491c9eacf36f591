"""A callback of the caller beside a search: both act, what it leaves out stays, and it may end the call."""

import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from diffusers_ext import SVDD, BestOfN, FKSteering, Paths, ReNO, TTSnap, ZeroOrder
from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.host_call import HostCall

from ..tiny_models import sd3, unet
from .searches import SIZE, greenness, redness, sample, seeded

SEARCHES = {
    "best-of-n": BestOfN(rewards=redness, n=3),
    "zero-order": ZeroOrder(rewards=redness, neighbours=2, rounds=2),
    "svdd": SVDD(rewards=redness, children=3),
    "fk-steering": FKSteering(rewards=redness, n=3, start=1, every=2, renoise=1.0),
    "ttsnap": TTSnap(rewards=redness, n=4),
    "paths": Paths(rewards=redness, n=2),
    "reno": ReNO(rewards=redness, iterations=2),
}
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def idle(pipe, step, timestep, state):
    return {}


def test_it_sees_what_was_asked_for_and_what_the_search_made():
    pipe, seen = unet.pipeline(), []

    def callback(pipe, step, timestep, state):
        seen.append((step, sorted(state), state["latents"].abs().max().item()))
        return state

    call = HostCall(
        pipe,
        "a",
        height=32,
        width=32,
        num_inference_steps=3,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    call.run(call.draw(1), lambda step, latents: latents * 0)
    assert [entry[:2] for entry in seen] == [(step, ["latents", "prompt_embeds"]) for step in range(3)]
    assert [entry[2] == 0 for entry in seen] == [True, True, False], "after the last step it comes first"


@each_search
def test_one_that_changes_nothing_changes_nothing(search):
    plain = sample(search, seed=1)
    beside = sample(search, seed=1, callback_on_step_end=idle)
    assert torch.equal(beside.images, plain.images)
    assert torch.equal(beside.scores, plain.scores) and torch.equal(beside.noise, plain.noise)


@pytest.mark.parametrize("reward", [redness, greenness])
def test_the_score_is_that_of_the_picture_that_it_left(reward):
    def darker(pipe, step, timestep, state):
        return {"latents": state["latents"] * 0.5}

    found = sample(BestOfN(rewards=reward, n=3), seed=1, callback_on_step_end=darker)
    assert torch.allclose(reward(found.images, []), found.scores, atol=1e-6)
    start = dict(generator=seeded(*found.seeds), output_type="pt", callback_on_step_end=darker)
    assert torch.allclose(sd3.pipeline()("a red circle", **SIZE | start).images, found.images, atol=1e-6)


@each_search
def test_one_that_interrupts_ends_the_search(search):
    def interrupt(pipe, step, timestep, state):
        pipe._interrupt = step == 1
        return state

    with pytest.raises(MethodError, match="since a callback interrupted the pipeline"):
        sample(search, callback_on_step_end=interrupt)


def test_one_that_interrupts_later_leaves_the_best_until_then():
    calls = []

    def interrupt(pipe, step, timestep, state):
        calls.append(step)
        pipe._interrupt = len(calls) > SIZE["num_inference_steps"]
        return state

    found = sample(SEARCHES["zero-order"], callback_on_step_end=interrupt)
    assert found.stopped == "a callback interrupted the pipeline"
    assert len([c for c in found.history if c.score is not None]) == 3


def test_one_that_interrupts_after_the_last_step_leaves_nothing_out():
    def interrupt(pipe, step, timestep, state):
        pipe._interrupt = step == SIZE["num_inference_steps"] - 1
        return state

    search = SEARCHES["best-of-n"]
    plain, found = sample(search, seed=1), sample(search, seed=1, callback_on_step_end=interrupt)
    assert torch.equal(found.images, plain.images) and found.stopped is None


def test_objects_of_diffusers_say_which_tensors_they_change():
    size = dict(height=32, width=32, num_inference_steps=4, guidance_scale=4.0)
    cut = dict(callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5)) | size
    found = HostCall(unet.pipeline(), "a red circle", seeded(3)[0], **cut)
    latents = found.run(found.draw(1), lambda step, latents: None)
    plain = unet.pipeline()("a red circle", generator=seeded(3)[0], output_type="latent", **cut).images
    assert torch.equal(latents, plain)


def test_one_that_returns_no_dictionary_is_named():
    with pytest.raises(MethodError, match=r"a dictionary of the tensors .* got NoneType; end it with"):
        sample(SEARCHES["best-of-n"], callback_on_step_end=lambda *_: None)
