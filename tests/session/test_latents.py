"""The scheduler of a session: the same steps, notes of its own, and the same object back."""

import copy
import inspect
import pickle

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from diffusers_ext.errors import UnsupportedError
from diffusers_ext.sampling.estimate import StepWatch
from diffusers_ext.session.latents import exchange, notes_of

from ..hosts import host

KINDS = [
    DDIMScheduler,
    PNDMScheduler,
    EulerAncestralDiscreteScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    HeunDiscreteScheduler,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_runs_as_before(kind):
    tiny = host("sd")
    pipe = tiny.build()
    pipe.scheduler = mine = kind.from_config(pipe.scheduler.config | {"skip_prk_steps": True})
    plain, config = tiny.run(pipe, cfg=True), dict(pipe.config)
    undo = exchange(pipe, "astar")
    ours = pipe.scheduler
    assert isinstance(ours, kind) and type(ours).__name__ == kind.__name__ and ours is not mine
    assert inspect.signature(ours.step) == inspect.signature(mine.step)
    assert torch.equal(tiny.run(pipe, cfg=True), plain)
    assert undo() is None and pipe.scheduler is mine and dict(pipe.config) == config
    assert torch.equal(tiny.run(pipe, cfg=True), plain)


def test_it_is_saved_as_the_scheduler_that_it_is(tmp_path):
    pipe = host("sd").build()
    undo = exchange(pipe, "astar")
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    undo()
    assert type(again.scheduler) is DDIMScheduler
    assert again.scheduler.alphas_cumprod.equal(pipe.scheduler.alphas_cumprod)


def test_the_next_step_begins_at_moved_latents():
    pipe = host("sd").build()
    undo = exchange(pipe, "astar")
    scheduler, other = pipe.scheduler, copy.deepcopy(pipe.scheduler)
    plain = DDIMScheduler.from_config(scheduler.config)
    x, moved, e = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for each in (scheduler, other, plain):
        each.set_timesteps(3)
    t = scheduler.timesteps[0]
    scheduler.scale_model_input(torch.cat([x, x]), t)
    notes = notes_of(scheduler)
    assert torch.equal(notes.scale(moved), plain.scale_model_input(moved, t))
    notes.moved = moved
    assert torch.equal(scheduler.step(e, t, x)[0], plain.step(e, t, moved)[0])
    assert notes.moved is None and notes_of(other) is not notes and notes_of(other).raw is None
    assert torch.equal(scheduler.step(e, t, x)[0], plain.step(e, t, x)[0])
    undo()


def test_estimates_of_a_search_are_of_moved_latents():
    pipe = host("sd").build()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    x, moved, e = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    undo, found = exchange(pipe, "astar"), []
    for scheduler, begin in ((pipe.scheduler, x), (copy.deepcopy(pipe.scheduler), moved)):
        scheduler.set_timesteps(3)
        watch, t = StepWatch(scheduler), scheduler.timesteps[0]
        scheduler.scale_model_input(begin, t)
        notes_of(scheduler).moved = moved
        scheduler.step(e, t, begin)
        found.append(watch.clean())
    undo()
    assert torch.equal(*found)


def test_latents_that_the_pipeline_changed_meanwhile():
    pipe = host("sd").build()
    undo = exchange(pipe, "astar")
    pipe.scheduler.set_timesteps(3)
    t, x = pipe.scheduler.timesteps[0], torch.zeros(1, 4, 8, 8)
    pipe.scheduler.scale_model_input(x, t)
    notes_of(pipe.scheduler).moved = x + 1
    with pytest.raises(UnsupportedError, match="the pipeline changed them too"):
        pipe.scheduler.step(x, t, x + 2)
    undo()


def test_copies_of_a_scheduler_have_notes_of_their_own():
    """A search copies the pipeline's scheduler, also while gradients are recorded."""
    pipe = host("sd").build()
    undo = exchange(pipe, "astar")
    pipe.scheduler.set_timesteps(3)
    x = torch.zeros(1, 4, 8, 8, requires_grad=True) * 2
    pipe.scheduler.scale_model_input(x, pipe.scheduler.timesteps[0])
    assert notes_of(copy.deepcopy(pipe.scheduler)).raw is None
    undo()
    pickle.dumps(pipe.scheduler)


def test_schedulers_that_scale_nothing_are_refused():
    pipe = host("sd").build()
    pipe.scheduler = mine = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(
        UnsupportedError, match=r"\(FlowMatchEulerDiscreteScheduler\) has no scale_model_input"
    ):
        exchange(pipe, "astar")
    assert pipe.scheduler is mine
