"""Take a step with fresh noise in place of the scheduler's own, and copy rows inside a scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .estimate import Mix


def ancestral(clean: Tensor, noise: Tensor, now: Mix, then: Mix, fresh: Tensor, eta: float) -> Tensor:
    """Return the sample at `then` of a step from `now`, with a part of its noise drawn afresh.

    DDIM (2010.02502), eq. 12, for any schedule: `signal clean + sqrt(noise^2 - s^2) noise + s fresh`. `s` is
    `eta` times the spread of the posterior of DDPM, so 0 is the deterministic step.
    """
    ratio = now.signal / then.signal
    spread = eta * then.noise / now.noise * max(0.0, now.noise**2 - (ratio * then.noise) ** 2) ** 0.5
    spread = min(spread, then.noise)
    return then.signal * clean + (then.noise**2 - spread**2) ** 0.5 * noise + spread * fresh


def back(sample: Tensor, now: Mix, then: Mix, fresh: Tensor) -> Tensor:
    """Return a sample at `now` with noise added until it is one at `then`, which is at least as noisy."""
    ratio = then.signal / now.signal
    spread = max(0.0, then.noise**2 - (ratio * now.noise) ** 2) ** 0.5
    return ratio * sample + spread * fresh


def copy_rows(scheduler: Any, sources: Sequence[int], shape: torch.Size) -> None:
    """Let rows go on as copies of others in what a scheduler keeps of earlier steps, tensors of `shape`."""
    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor):
            vars(scheduler)[name] = _taken(value, sources, shape)
        elif isinstance(value, list):
            vars(scheduler)[name] = [_taken(v, sources, shape) for v in value]


def _taken(value: Any, sources: Sequence[int], shape: torch.Size) -> Any:
    return value[list(sources)] if isinstance(value, Tensor) and value.shape == shape else value
