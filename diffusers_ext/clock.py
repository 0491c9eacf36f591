"""Time under a session: which step a denoiser call belongs to, and how long calls take."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .core import RunContext


@dataclass
class Clock:
    """Turns the timestep value of a call into a step index of the host's schedule.

    The value is looked up in `scheduler.timesteps`, so that caches which skip calls, second-order schedulers
    and interrupted runs cannot put it out of step.
    """

    pipe: Any = None
    _table: Any = None
    _executed: list[float] = field(default_factory=list)
    _sigmas: dict[float, float] = field(default_factory=dict)

    def read(self, value: float, run: RunContext) -> None:
        """Sets `run.step`, `run.steps` and `run.sigma`; leaves them `None` for a bare denoiser."""
        scheduler = getattr(self.pipe, "scheduler", None)
        table = getattr(scheduler, "timesteps", None)
        if table is None or len(table) == 0:
            return
        if table is not self._table:
            self._load(scheduler, table, value)
        run.step = min(range(len(self._executed)), key=lambda i: abs(self._executed[i] - value))
        run.steps = len(self._executed)
        run.sigma = self._sigmas.get(self._executed[run.step])

    def point(self) -> tuple[int, int | None]:
        """What tells two calls at one timestep apart: the run (its table) and the scheduler's count."""
        scheduler = getattr(self.pipe, "scheduler", None)
        return id(self._table), getattr(scheduler, "step_index", None)

    def _load(self, scheduler: Any, table: Tensor, first: float) -> None:
        values = [float(t) for t in table]
        # Image-to-image starts late, denoising_end stops early; not every scheduler knows where it began.
        begin = min(range(len(values)), key=lambda i: abs(values[i] - first))
        count = getattr(self.pipe, "_num_timesteps", None) or len(values)
        # Second-order schedulers list a timestep twice: it is one step.
        self._executed = list(dict.fromkeys(values[begin : begin + count]))
        sigmas = getattr(scheduler, "sigmas", None)
        self._sigmas = dict(zip(values, map(float, sigmas), strict=False)) if sigmas is not None else {}
        self._table = table


class Stopwatch:
    """Seconds spent inside `with watch:`, summed.

    On a GPU the work is enqueued, not done, when the block ends: events are recorded and read only when
    `seconds` is asked for, so that measuring makes nobody wait.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pairs: list[tuple[Any, Any]] = []
        self._began: Any = None

    def __enter__(self) -> None:
        self._began = _event() if torch.cuda.is_initialized() else time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        if isinstance(self._began, float):
            self._seconds += time.perf_counter() - self._began
        else:
            self._pairs.append((self._began, _event()))

    @property
    def seconds(self) -> float:
        """Waits for what is still running on the GPU."""
        for began, ended in self._pairs:
            ended.synchronize()
            self._seconds += began.elapsed_time(ended) / 1000
        self._pairs.clear()
        return self._seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
