"""Find noise that suits a prompt by one guided step and a step back: re-denoise sampling.

Paper: Zhou et al., "Golden Noise for Diffusion Models" (arXiv 2411.09502). A step with strong guidance is
undone with the prediction of weak guidance, which leaves something of the prompt in the noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ..guidance_arguments import switch
from ..host_call import HostCall, Starts

PLAIN = (
    0.01  # largest share of a step that a fixed combination may leave unexplained; fp16 leaves a thousandth
)


class _Enough(Exception):
    """The first step of a call was seen, which is all that was wanted."""


@dataclass(frozen=True, slots=True)
class FirstStep:
    """The first step of a call: `after = keep * sample + push * prediction`, all `[R, ...]`."""

    sample: Tensor
    prediction: Tensor
    after: Tensor
    keep: float
    push: float


def re_denoise(
    host: HostCall, starts: Starts, *, steps: int = 10, w_denoise: float = 5.5, w_invert: float = 1.0
) -> Tensor:
    """Return noise `[R, ...]` that the prompts of a call were put into, with the variance of the pipeline.

    One step of a schedule of `steps` goes from the noise to `x1`, with the guidance scale `w_denoise`. The
    noise that leads to `x1` with the prediction for `x1` at the same timestep, with the scale `w_invert`, is
    the result: `(x1 - push * prediction) / keep`. It is exact, since the first step of a scheduler without
    noise of its own is a fixed combination of sample and prediction.

    Raises `UnsupportedError` for a pipeline without classifier-free guidance, and for schedulers that add
    noise.
    """
    scale = scale_name(host)
    forward = first_step(host, starts, num_inference_steps=steps, **{scale: w_denoise})
    unit = (
        forward.sample.float().norm() / starts.noise.norm()
    )  # some pipelines scale the noise they are given
    moved = starts.with_noise(forward.after.float() / unit)
    back = first_step(host, moved, num_inference_steps=steps, **{scale: w_invert})
    return undo(forward, back.prediction) / unit


def undo(step: FirstStep, prediction: Tensor) -> Tensor:
    """Return the sample from which a step with another prediction would have led to the same result."""
    return (step.after.float() - step.push * prediction.float()) / step.keep


def scale_name(host: HostCall) -> str:
    """Return the argument of the pipeline that sets classifier-free guidance."""
    name = switch(host.pipe, host.call)
    if name is None or (name == "true_cfg_scale" and host.call.get("negative_prompt") is None):
        raise UnsupportedError(
            "re-denoise sampling compares two scales of classifier-free guidance, and this call of "
            f"{type(host.pipe).__name__} has none; give a negative_prompt, or take a model with guidance."
        )
    return name


def first_step(host: HostCall, starts: Starts, **more: Any) -> FirstStep:
    """Return the first step of the pipeline's own call, which ends there."""
    found: list[FirstStep] = []

    def watch(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        found.append(_step(host.pipe.scheduler, inner, *args, **kwargs))
        raise _Enough

    with watching(host.pipe.scheduler, watch), suppress(_Enough), torch.no_grad():
        host.run(starts, **more)
    return found[0]


@contextmanager
def watching(scheduler: Any, watch: Callable[..., Any]) -> Iterator[None]:
    """Call `watch(step, ...)` in place of `step(...)` of one scheduler object, which is nobody else's."""
    inner = scheduler.step
    scheduler.step = lambda *args, **kwargs: watch(inner, *args, **kwargs)
    try:
        yield
    finally:
        del scheduler.step


def _step(
    scheduler: Any, inner: Callable[..., Any], prediction: Tensor, t: Any, sample: Tensor, **kwargs: Any
) -> FirstStep:
    fresh = copy.deepcopy({k: v for k, v in vars(scheduler).items() if k != "step"})
    kwargs["return_dict"] = False

    def factor(of_prediction: float, of_sample: float) -> float:
        probe = copy.copy(scheduler)
        vars(probe).clear()
        vars(probe).update(copy.deepcopy(fresh))
        like = prediction.new_ones((1,) * prediction.ndim, dtype=torch.float32)
        return float(probe.step(of_prediction * like, t, of_sample * like, **kwargs)[0])

    after = inner(prediction, t, sample, **kwargs)[0]
    keep, push = factor(0.0, 1.0), factor(1.0, 0.0)
    rest = keep * sample.float() + push * prediction.float() - after.float()
    if not rest.abs().max() <= PLAIN * after.float().abs().max() or abs(keep) < PLAIN:
        raise UnsupportedError(
            "re-denoise sampling undoes a step that adds no noise and clips nothing, and that of "
            f"{type(scheduler).__name__} cannot be undone; give the pipeline a DDIM, Euler or flow matching "
            "scheduler."
        )
    return FirstStep(sample, prediction, after, keep, push)
