"""Sessions over time: faults at every point of a call, runs unlike the last one, closing at odd moments.

Two promises. After a session the pipeline is, bit for bit, one that never had a session. And the next run
under a session that is still open is that of a fresh session on a fresh pipeline.
"""

import copy
from dataclasses import replace
from itertools import count

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxImg2ImgPipeline,
    HeunDiscreteScheduler,
)
from PIL import Image

import diffusers_ext as dx

from . import faults
from .hosts import HOSTS, Host, host
from .test_session import same_state, state_of


def image_to_image():
    """FLUX.1 from a picture: two calls a step, and the host names neither."""
    pipe = FluxImg2ImgPipeline(**host("flux").build().components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


UNNAMED = replace(
    host("flux"),
    name="flux-image-to-image",
    build=image_to_image,
    extra=host("flux").extra | {"image": Image.new("RGB", (48, 32), "grey"), "strength": 1.0},
)
ALIKE = ("sd3.5", "flux-dev", "skyreels")  # run as their neighbours do
CASES = [h for h in HOSTS if h.name not in ALIKE]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def softpag(case: Host, **settings):
    return dx.SoftPAG(**dict(heads={case.layer: None}, strength=1.0, scale=2.0) | settings)


def sparse(case: Host):
    settings = dict(dense_steps=1, backend="reference")
    return dx.GNA((2, 2, 2), **settings) if case.video else dx.CLEAR(2, **settings)


def fresh(case, methods, **run):
    """The same run under a fresh session on a fresh pipeline."""
    pipe = case.build()
    with dx.apply(pipe, *methods):
        return case.run(pipe, **run)


FAULTS = [(softpag, case) for case in [*CASES, UNNAMED]] + [
    (sparse, case) for case in CASES if case.name not in ("sdxl", "wan")
]


@pytest.mark.parametrize("method, case", FAULTS, ids=[f"{m.__name__}-{c.name}" for m, c in FAULTS])
def test_a_fault_at_any_point_of_a_call_leaves_nothing_behind(method, case):
    """Each pass of each step, conditional, unconditional and perturbed, is broken off once."""
    methods, run = [method(case)], {"cfg": True, "steps": 2}
    wanted = fresh(case, methods, **run)
    plain = case.run(case.build(), **run)
    assert not torch.equal(wanted, plain)
    pipe, broken = case.build(), 0
    before = state_of(pipe)
    with dx.apply(pipe, *methods):
        for place, (watch, most) in faults.PLACES.items():
            for visit in count() if most is None else range(most):
                error = (KeyboardInterrupt, torch.OutOfMemoryError)[visit % 2]("in the middle of a run")
                trap = faults.Trap(visit, error)
                with watch(case, pipe, trap) as extra:
                    try:
                        case.run(pipe, **run, **extra)
                    except type(error):
                        broken += 1
                if not trap.sprung:
                    break
                assert torch.equal(case.run(pipe, **run), wanted), f"{place}, visit {visit}"
    # two steps of one or two calls of the host, and with guidance of one pass more; four at other places
    assert broken == 4 + 2 * ((1 if case.one_batch else 2) + (method is softpag))
    assert same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, **run), plain)


@every_case
def test_a_fault_that_ends_the_session_leaves_nothing_behind(case):
    """The exception is on its way through the perturbed pass when the session closes."""
    pipe, run = case.build(), {"cfg": True, "steps": 1 if case.least_steps == 1 else 2}
    plain, before = case.run(pipe, **run), state_of(pipe)
    trap = faults.Trap(1, KeyboardInterrupt())
    with (
        pytest.raises(KeyboardInterrupt),
        faults.in_modules(faults.layers(case, pipe), trap),
        dx.apply(pipe, softpag(case), sparse(case)),
    ):
        case.run(pipe, **run)
    assert trap.sprung and same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, **run), plain)


SCHEDULERS = {
    "sd": lambda config: HeunDiscreteScheduler.from_config(config),
    "sdxl": lambda config: DPMSolverMultistepScheduler.from_config(config),
    "sd3": lambda config: FlowMatchHeunDiscreteScheduler(shift=2.0),
    "flux": lambda config: FlowMatchEulerDiscreteScheduler.from_config(config, use_karras_sigmas=True),
    "wan": lambda config: FlowMatchEulerDiscreteScheduler(shift=2.0),
    "wan2.2": lambda config: FlowMatchEulerDiscreteScheduler(shift=2.0),
    "hunyuan-video": lambda config: FlowMatchEulerDiscreteScheduler(shift=2.0),
    "mochi": lambda config: FlowMatchEulerDiscreteScheduler.from_config(config, shift=2.0),
}
SIZES = {
    "sd3": dict(height=48, width=32),
    "flux": dict(height=48, width=32),
    "sd": dict(height=32, width=48),
    "sdxl": dict(height=32, width=48),
    "wan": dict(height=32, width=48, num_frames=9),
    "wan2.2": dict(height=16, width=32, num_frames=3),
    "hunyuan-video": dict(height=32, width=48, num_frames=5),
    "mochi": dict(height=96, width=64, num_frames=7),
}


@every_case
def test_runs_under_one_session_do_not_know_of_each_other(case):
    """Other steps, sizes, numbers of pictures, guidance and schedulers, and the first run once more."""
    methods = [softpag(case, start=0.5), sparse(case)]
    first = dict(cfg=True, steps=2)
    runs = [first, dict(cfg=True, steps=4), first | SIZES[case.name], dict(steps=2, prompts=2), first]
    pipe, found = case.build(), []
    stock = pipe.scheduler
    with dx.apply(pipe, *methods):
        found += [case.run(pipe, **run) for run in runs]
        pipe.scheduler = SCHEDULERS[case.name](stock.config)
        found.append(case.run(pipe, cfg=True, steps=3))
        pipe.scheduler = stock
        found.append(case.run(pipe, **first))
    other = case.build()  # each run gets a session and a scheduler of its own
    wanted = []
    for run in runs[:-1]:
        lone = copy.copy(other)
        lone.scheduler = type(stock).from_config(stock.config)
        with dx.apply(lone, *methods):
            wanted.append(case.run(lone, **run))
    lone.scheduler = SCHEDULERS[case.name](stock.config)
    with dx.apply(lone, *methods):
        wanted.append(case.run(lone, cfg=True, steps=3))
    places = [0, 1, 2, 3, 0, 4, 0]
    assert [torch.equal(x, wanted[i]) for x, i in zip(found, places, strict=True)] == [True] * 7
    assert not torch.equal(wanted[0], case.run(other, **first))
