"""Begin a call in the middle of its schedule, from latents that an earlier call left there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor

from ..errors import UnsupportedError


def check_restart(scheduler: Any) -> None:
    """Raise `UnsupportedError` for a scheduler whose steps are several calls, or begin in a special way."""
    # The last step of LCM and TCD is known by the number of steps, which is that of the full call. The
    # single-step solver goes through a list of orders, each of which needs the steps before it.
    listed = hasattr(scheduler, "order_list")
    last = type(scheduler).__name__ in ("LCMScheduler", "TCDScheduler")
    if getattr(scheduler, "order", 1) != 1 or hasattr(scheduler, "ets") or listed or last:
        raise UnsupportedError(
            "a call begins in the middle with schedulers of one call a step, got "
            f"{type(scheduler).__name__}; take DDIM, Euler, DPM-Solver (multistep), UniPC or flow matching."
        )


@contextmanager
def beginning_at(scheduler: Any, step: int) -> Iterator[None]:
    """Let each schedule that a scheduler object makes begin at `step`; the object must be nobody else's.

    Steps that use the results of earlier ones begin without them, as at the start of a call.
    """
    inner = scheduler.set_timesteps

    @wraps(inner)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        _cut(scheduler, step)

    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        del scheduler.set_timesteps


def unscaled(scheduler: Any, step: int, latents: Tensor) -> Tensor:
    """Return latents at `step` of the present schedule as the argument `latents` of a call that begins there.

    Pipelines multiply that argument by the first sigma where the scheduler says so.
    """
    if not hasattr(scheduler, "init_noise_sigma"):
        return latents
    ahead = copy.copy(scheduler)
    _cut(ahead, step)
    return latents / float(ahead.init_noise_sigma)


def _cut(scheduler: Any, step: int) -> None:
    scheduler.timesteps = scheduler.timesteps[step:]
    if getattr(scheduler, "sigmas", None) is not None:
        scheduler.sigmas = scheduler.sigmas[step:]
