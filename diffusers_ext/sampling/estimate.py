"""Estimate the finished latents at each step of a call, from what the scheduler is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..session.latents import notes_of

KNOWN = "DDIM, DDPM, PNDM, LCM, TCD, Euler, Heun, DPM-Solver, UniPC, DEIS, SASolver, flow matching"


@dataclass(frozen=True, slots=True)
class Mix:
    """A mix says how noisy the sample of a step is: `sample = signal * clean + noise * gaussian`.

    `level` is the share of the noise, from 0 for a clean sample to 1. It is the same scale for every kind of
    schedule: the sigma of flow matching, and `sigma / (1 + sigma)` where the variance explodes.
    """

    signal: float
    noise: float

    @property
    def level(self) -> float:
        return self.noise / (self.signal + self.noise)


class StepWatch:
    """Watches the `step` of one scheduler object, which must be nobody else's.

    After each step `sample` is what the step began with, `mix` its noise, and `clean()` the estimate of the
    finished latents (Tweedie's formula): `x0 = (x - noise * e) / signal` for a model that predicts the noise
    `e`, and what follows from it for the other predictions. `draws` says if the step took random numbers
    from a generator of the call.

    Raises `UnsupportedError` for a scheduler whose schedule is not known here.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.sample: Tensor | None = None
        self.prediction: Tensor | None = None
        self.mix: Mix | None = None
        self.draws = False
        self._clean: Tensor | None = None
        _kind(scheduler)
        inner = scheduler.step

        @wraps(inner)
        def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            dice = kwargs.get("generator")
            one = dice[0] if isinstance(dice, (list, tuple)) else dice
            before = None if one is None else one.get_state()
            if not kwargs.get("return_dict", True):
                kwargs["return_dict"] = True
                out = inner(model_output, timestep, sample, *args, **kwargs)
                made: Any = (out.prev_sample,)
            else:
                made = out = inner(model_output, timestep, sample, *args, **kwargs)
            notes = notes_of(scheduler)  # a method may have moved the latents
            self.sample, self.prediction = sample if notes is None else notes.began, model_output
            self._clean = getattr(out, "pred_original_sample", None)
            self.mix = mix_of(scheduler, timestep)
            self.draws = one is not None and not torch.equal(before, one.get_state())
            return made

        scheduler.step = step

    def clean(self, rows: Any = slice(None)) -> Tensor:
        """Return the estimate of the finished latents `[R, ...]` of some rows, in the dtype of the sample."""
        if self._clean is not None:
            return self._clean[rows]
        sample, prediction = self.sample[rows].float(), self.prediction[rows].float()
        return clean(self.scheduler, self.mix, prediction, sample).to(self.sample.dtype)

    def noise(self, rows: Any = slice(None)) -> Tensor:
        """Return the noise `[R, ...]` of unit variance that goes with `clean`, in float32."""
        sample, clean = self.sample[rows].float(), self.clean(rows).float()
        return (sample - self.mix.signal * clean) / self.mix.noise


def clean(scheduler: Any, mix: Mix, prediction: Tensor, sample: Tensor) -> Tensor:
    """Return the estimate of the finished latents from one prediction, by its `prediction_type`."""
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    if _kind(scheduler) == "flow":
        kind = "flow_prediction"
    if kind == "flow_prediction":
        # A schedule that counts up has the velocity from noise to picture, as in Mochi.
        return sample + (mix.noise if _rises(scheduler) else -mix.noise) * prediction
    if kind == "sample":
        return prediction
    # The network sees samples of variance one, so the others are on that scale.
    scale = (mix.signal**2 + mix.noise**2) ** -0.5
    signal, noise, sample = mix.signal * scale, mix.noise * scale, sample * scale
    if kind == "epsilon":
        return (sample - noise * prediction) / signal
    if kind == "v_prediction":
        return signal * sample - noise * prediction
    raise UnsupportedError(
        f"estimates of the picture are made from epsilon, v_prediction, sample or flow_prediction, got a "
        f"{type(scheduler).__name__} with {kind}; take a sampler that looks at finished pictures only."
    )


def mix_of(scheduler: Any, timestep: Any) -> Mix:
    """Return how noisy the sample was that a scheduler has just stepped from."""
    if _kind(scheduler) == "alphas":
        return _mix(scheduler, timestep)
    return _mix(scheduler, scheduler.sigmas[scheduler.step_index - 1])


def mix_at(scheduler: Any, step: int) -> Mix:
    """Return how noisy the sample is that a step of the present schedule begins with."""
    return _mix(scheduler, (scheduler.timesteps if _kind(scheduler) == "alphas" else scheduler.sigmas)[step])


def _mix(scheduler: Any, place: Any) -> Mix:
    """Return the mix at a timestep, or at a sigma for schedulers that keep sigmas."""
    kind = _kind(scheduler)
    if kind == "alphas":
        alpha = float(scheduler.alphas_cumprod[int(torch.as_tensor(place).flatten()[0])])
        return Mix(alpha**0.5, (1 - alpha) ** 0.5)
    sigma = float(place)
    if kind == "flow":
        return Mix(sigma, 1 - sigma) if _rises(scheduler) else Mix(1 - sigma, sigma)
    if kind == "solver":
        signal, noise = scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma, dtype=torch.float64))
        return Mix(float(signal), float(noise))
    return Mix(1.0, sigma)


def _rises(scheduler: Any) -> bool:
    """Return whether sigma is the share of the picture, not that of the noise."""
    return bool(getattr(scheduler.config, "invert_sigmas", False))


def _kind(scheduler: Any) -> str:
    """Return how a scheduler keeps its schedule: flow, solver, sigmas or alphas."""
    name = type(scheduler).__name__
    if name.startswith("FlowMatch"):
        return "flow"
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return "solver"
    if hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "sigmas"):
        return "sigmas"
    if hasattr(scheduler, "alphas_cumprod"):
        return "alphas"
    raise UnsupportedError(
        f"estimates of the picture need a schedule of {KNOWN}, got {name}; take one of those, or a sampler "
        "that looks at finished pictures only."
    )
