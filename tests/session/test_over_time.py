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
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.session.reorder import ONCE

from .. import faults
from ..hosts import HOSTS, Host, host
from .test_session import same_state, state_of


def image_to_image():
    """FLUX.1 from a picture: two calls a step, and the pipeline names neither."""
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
# U-Nets, joint attention, two calls a step and two denoisers are tested fast, what is like them slowly.
SLOW = ("sdxl", "wan", "hunyuan-video")


def marks(case: Host, slow: tuple[str, ...] = SLOW) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] * (case.name in slow)


every_case = pytest.mark.parametrize("case", [pytest.param(c, marks=marks(c), id=c.name) for c in CASES])


def softpag(case: Host, **settings):
    return dx.SoftPAG(**dict(heads={case.layer: None}, strength=1.0, scale=2.0) | settings)


def sparse(case: Host):
    settings = dict(dense_steps=1, backend="reference")
    return dx.GNA((2, 2, 2), **settings) if case.video else dx.CLEAR(2, **settings)


def fresh(case, methods, **run):
    """Make the same run under a fresh session on a fresh pipeline."""
    pipe = case.build()
    with dx.apply(pipe, *methods):
        return case.run(pipe, **run)


# FLUX.1 from a picture has the two calls of FLUX.1, and no names for them.
FAULTS = [(softpag, case, (*SLOW, "flux")) for case in [*CASES, UNNAMED]] + [
    (sparse, case, SLOW) for case in CASES if case.name not in ("sdxl", "wan")
]


@pytest.mark.parametrize(
    "method, case",
    [pytest.param(m, c, marks=marks(c, slow), id=f"{m.__name__}-{c.name}") for m, c, slow in FAULTS],
)
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
    # two steps of one or two calls, and one pass more with guidance; four at other places
    assert broken == 4 + 2 * ((1 if case.one_batch else 2) + (method is softpag))
    assert same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, **run), plain)


def test_a_fault_while_tokens_are_reordered_leaves_no_order_behind():
    """The next run has a hook inside the denoiser, so its tokens stay in raster order."""
    case = replace(host("flux"), size=dict(height=32, width=128))
    pipe, method, run = case.build(), sparse(case), dict(steps=2)
    hooked = faults.in_modules(faults.layers(case, pipe), lambda: None)
    with dx.apply(pipe, method), hooked:
        wanted = case.run(pipe, **run)
    products, begun = [], []

    def note(pipe, step, timestep, tensors):
        begun.append(len(products))
        return tensors

    with dx.apply(pipe, method) as session:
        with faults.in_products(lambda: products.append(0)):
            case.run(pipe, **run, callback_on_step_end=note)
        assert {site.order for site in session.report().sites} == {ONCE}
        for visit in (begun[0] + 10, begun[1] - 10):  # of the second step: the first is dense
            trap = faults.Trap(visit, torch.OutOfMemoryError())
            with faults.in_products(trap), pytest.raises(torch.OutOfMemoryError):
                case.run(pipe, **run)
            with faults.in_modules(faults.layers(case, pipe), lambda: None):
                assert torch.equal(case.run(pipe, **run), wanted)


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
    "sd3": dict(height=32, width=64),
    "flux": dict(height=32, width=64),
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


@pytest.mark.parametrize(
    "case", [host("sd"), host("flux"), host("wan2.2"), UNNAMED], ids=lambda case: case.name
)
def test_runs_of_a_copy_in_the_middle_of_a_run(case):
    """A server's copy of a pipeline has its own scheduler and other steps; neither disturbs the other."""
    methods = [softpag(case, start=0.5), sparse(case)]
    outer, inner = dict(cfg=True, steps=4), dict(cfg=True, steps=3, prompts=2)
    wanted, within = fresh(case, methods, **outer), fresh(case, methods, **inner)
    pipe, found, visits = case.build(), [], []
    other = copy.copy(pipe)
    other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    third = 3 if case.one_batch else 6  # the last call of the third step, which is guided

    def visit():
        visits.append(0)
        if len(visits) == third:
            found.append(case.run(other, **inner))

    with dx.apply(pipe, *methods), faults.in_modules(list(denoisers(pipe).values()), visit):
        assert torch.equal(case.run(pipe, **outer), wanted)
    assert len(found) == 1 and torch.equal(found[0], within)


def test_runs_from_a_picture_that_begin_at_other_steps_do_not_know_of_each_other():
    """The part of the schedule that runs is another each time, and the window and the dense steps with it."""
    case = UNNAMED
    methods = [softpag(case, stop=0.5), sparse(case)]
    runs = [dict(cfg=True, steps=4, strength=strength) for strength in (1.0, 0.5, 1.0)]
    pipe = case.build()
    with dx.apply(pipe, *methods) as session:
        found, passes = [], []
        for run in runs:
            found.append(case.run(pipe, **run))
            passes.append(session.report().extra_passes)
    wanted = [fresh(case, methods, **run) for run in runs[:2]]
    assert all(map(torch.equal, found, [*wanted, wanted[0]]))
    assert passes == [2, 3, 5]  # half of 4, 2 and 4 steps
