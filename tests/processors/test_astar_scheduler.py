"""AStar leaves the pipeline as it was, its scheduler above all."""

import copy

import pytest
import torch
from diffusers import EulerDiscreteScheduler

import diffusers_ext as dx

from ..hosts import host, processors
from .astar_oracles import TWO, run


def test_the_same_scheduler_is_back():
    tiny = host("sd")
    pipe = tiny.build()
    scheduler, stock, config = pipe.scheduler, processors(pipe.unet), dict(pipe.config)
    state = copy.deepcopy(vars(scheduler))
    session = dx.apply(pipe, dx.AStar(TWO))
    assert pipe.scheduler is not scheduler and isinstance(pipe.scheduler, type(scheduler))
    run(tiny, pipe)
    session.close()
    assert pipe.scheduler is scheduler and processors(pipe.unet) == stock and dict(pipe.config) == config
    assert str(state) == str(vars(scheduler))


def test_it_is_back_after_an_error():
    tiny = host("sd")
    pipe = tiny.build()
    scheduler = pipe.scheduler
    plain = run(tiny, pipe)
    with pytest.raises(dx.MethodError), dx.apply(pipe, dx.AStar(["owl", "cat"])):
        run(tiny, pipe)
    assert pipe.scheduler is scheduler and torch.equal(run(tiny, pipe), plain)
    with dx.apply(pipe, dx.AStar(TWO)) as session:
        first = run(tiny, pipe)
        broken = pipe.unet.mid_block.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tiny, pipe)
        broken.remove()
        assert not session.run.gradient_pass and torch.equal(run(tiny, pipe), first)


def test_a_scheduler_that_was_exchanged_meanwhile():
    tiny = host("sd")
    pipe = tiny.build()
    other = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    session = dx.apply(pipe, dx.AStar(TWO))
    pipe.scheduler = other
    with pytest.raises(dx.UnsupportedError, match="StableDiffusionPipeline has another; close"):
        run(tiny, pipe)
    with pytest.warns(UserWarning, match="the scheduler was exchanged"):
        session.close()
    assert pipe.scheduler is other
