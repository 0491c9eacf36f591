"""Find the step of a run that a denoiser call belongs to."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..core import RunContext
from ..families.base import Family


class StepIndex:
    """Finds the step of each denoiser call of one pipeline.

    The step is the scheduler's own count, less the count at which the run began. If a scheduler keeps no
    count, the timestep is looked up in its schedule. So caches that skip calls, second-order schedulers and
    interrupted runs do not make the step wrong.
    """

    def __init__(self) -> None:
        self.extra_passes = 0  # of a guidance method in the current run
        self.second_texts = 0  # calls with a second text in the current run
        self._table: Tensor | None = None  # the schedule of the current run; every run makes a new one
        self._timesteps = torch.empty(0, dtype=torch.float64)
        self._sigmas: list[float] = []
        self._begin = 0  # the place in the schedule where the run began: image-to-image starts late
        self._place: int | None = None

    def read(self, pipe: Any, timestep: Callable[[], float], run: RunContext, calling: bool = True) -> None:
        """Set `run.step`, `run.steps` and `run.sigma` for a call.

        They are `None` without a pipeline, and while its scheduler has no schedule. `timestep` returns that
        of the call, and is asked only if the scheduler keeps no count: a GPU must finish its work before it
        answers. `calling=False`: the call comes from a loop around the parts of the pipeline, not from it.
        """
        run.step = run.steps = run.sigma = self._place = None
        scheduler = getattr(pipe, "scheduler", None)
        table = getattr(scheduler, "timesteps", None)
        if table is None or len(table) == 0:
            return
        new = table is not self._table
        if new:
            self._load(scheduler, table)
        self._place = place = self._find(scheduler, timestep)
        if new:
            first = getattr(scheduler, "begin_index", None)
            self._begin = place if first is None else first
        left = len(table) - self._begin
        # denoising_end stops early; the pipeline knows how many entries of the schedule it takes.
        count = min(getattr(pipe, "_num_timesteps", left), left) if calling else left
        order = getattr(scheduler, "order", 1)  # a step of a second-order scheduler is two calls
        run.steps = max(-(-count // order), 1)
        run.step = min(max(place - self._begin, 0) // order, run.steps - 1)
        run.sigma = self._sigmas[place] if place < len(self._sigmas) else None

    def point(self) -> tuple[int, int | None]:
        """Identify a point of a trajectory by the run (its schedule) and the place in it."""
        return id(self._table), self._place

    def _load(self, scheduler: Any, table: Tensor) -> None:
        self._table, self.extra_passes, self.second_texts = table, 0, 0
        self._timesteps = torch.as_tensor(table, device="cpu").double()
        sigmas = getattr(scheduler, "sigmas", None)
        self._sigmas = [] if sigmas is None else torch.as_tensor(sigmas).tolist()

    def _find(self, scheduler: Any, timestep: Callable[[], float]) -> int:
        """Find the place of a call in the schedule."""
        # PNDM lists a timestep twice and counts its calls under another name. Before the first step nothing
        # is counted, so the place is the one at which the run begins.
        for count in ("step_index", "counter", "begin_index"):
            if (place := getattr(scheduler, count, None)) is not None:
                return int(place)
        nearest = int((self._timesteps - timestep()).abs().argmin())
        equal = (self._timesteps == self._timesteps[nearest]).nonzero().flatten()
        # A scheduler that counts begins with the second of equal timesteps, so that it skips no sigma.
        second = len(equal) > 1 and hasattr(scheduler, "step_index")
        return int(equal[1]) if second else nearest


def timestep_of(family: Family, call: Mapping[str, Any]) -> float:
    """Return the timestep of a call of a denoiser; a GPU finishes all its work before it answers."""
    timestep = family.timestep(call)
    return float(timestep.max()) if isinstance(timestep, Tensor) else float(timestep)


class StepIndices:
    """The `StepIndex` of each pipeline that calls, since copies of a pipeline may run at the same time."""

    def __init__(self) -> None:
        self._own: WeakKeyDictionary[Any, StepIndex] = WeakKeyDictionary()
        self._bare = StepIndex()

    def of(self, pipe: Any) -> StepIndex:
        """Return the index of a pipeline; all denoisers that no known pipeline calls share one."""
        return self._bare if pipe is None else self._own.setdefault(pipe, StepIndex())
