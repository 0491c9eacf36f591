"""Make the pictures of a batch, each in a turn of its own on a device, so that visitors come in between."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..jobs import maker, watch
from ..jobs.job import Job
from ..jobs.manifest import Each, Index, Line
from ..jobs.tasks import Point, Task
from ..outputs.stop import Interrupted
from .asked import without_paths
from .engine import Done, Engine, Place
from .line import Control, Refused

if TYPE_CHECKING:
    from ..evaluate.scorers import Scorers
    from ..sampling.budget import State

STOPPED = "stopped; it goes on where it ended"


class Turns(maker.Maker):
    """Makes tasks as a `Maker` does, with the models that a server has in memory.

    Nothing stays applied to a model between two turns. `owner` is the name by which the engine cancels what
    waits.
    """

    def __init__(self, job: Job, engine: Engine, owner: str, stop: threading.Event) -> None:
        super().__init__(job, engine.devices[0])
        self._engine, self._owner, self._stop = engine, owner, stop
        self._lent: Any = None
        self._place: Place | None = None

    def make(self, tasks: Sequence[Task], places: Sequence[Path], watch: watch.Attempts) -> list[Line]:
        """Wait for a device, and make tasks there. Raises `Interrupted` after a request to stop."""
        kept: list[BaseException] = []

        def turn(control: Control, place: Place) -> list[Line]:
            try:
                if self._stop.is_set():
                    raise Interrupted(STOPPED)
                self.device = self._engine.devices[place.number]
                with place.pipeline(tasks[0].point.model.name) as (_, pipe):
                    self._lent, self._place = pipe, place
                    return [_without_paths(line) for line in super(Turns, self).make(tasks, places, watch)]
            except BaseException as error:  # its kind matters to the walk through the tasks
                kept.append(error)
                raise
            finally:
                self.close()
                self._lent = self._place = None

        try:
            for event in self._engine.run(self._owner, turn, bounded=False):
                if isinstance(event, Done):
                    return event.result
        except Refused as refused:
            if not kept:  # cancelled while it waited, or the server ends
                raise Interrupted(STOPPED) from None
            if kept and isinstance(kept[0], (Interrupted, ValueError, OSError)):
                raise kept[0].with_traceback(None) from None
            return [self._failed(task, str(refused)) for task in tasks]
        raise Interrupted(STOPPED)

    def load(self, point: Point) -> Any:
        """Return the pipeline of this turn."""
        return self._lent

    def scorers(self, point: Point) -> Scorers | None:
        """Return the rewards, which stay on the device between turns."""
        key = tuple(self.job.sampler.rewards.items()), point.model.reward
        return self._place.kept(key, lambda: super(Turns, self).scorers(point))


def _without_paths(line: Line) -> Line:
    """Return a line of the manifest, which the zip has, without paths of the server in its report."""
    if "report" not in line:
        return line
    report = line["report"]
    return line | {"report": report | {"methods": without_paths(report["methods"])}}


class Watch(watch.Watch):
    """Follows a batch without a terminal. `words` say where the picture is that is being made."""

    def __init__(self, total: int, index: Index, mark: str, stop: threading.Event, each: Each) -> None:
        super().__init__(total, index, mark, lead=False, each=each)
        self._asked_to_stop, self.words, self.began = stop, "", time.monotonic()

    def begin(self, size: int) -> None:
        """Announce a picture. Raises `Interrupted` after a request to stop."""
        self._check()
        self._size, self.words = size, "waits for its turn"

    def hooks(self, pipe: Any) -> dict[str, Any]:
        """Return the callback that follows a call, and ends it after a request to stop."""
        if "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters:
            return {}
        return {"callback_on_step_end": self._step}

    def searching(self, state: State) -> None:
        """Follow a search."""
        self._check()
        self.words = f"{state.evaluations} evaluations"

    def look(self) -> None:
        """Read what was written since the last look. Raises `Interrupted` after a request to stop."""
        super().look()
        self._check()

    def trace(self, error: BaseException) -> None:
        """Show nothing: a visitor sees no frames."""

    def _step(self, pipe: Any, step: int, timestep: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
        self._check()
        self.words = f"step {step + 1} of {max(getattr(pipe, 'num_timesteps', 0) or 0, step + 1)}"
        return state

    def _check(self) -> None:
        if self._asked_to_stop.is_set():
            raise Interrupted(STOPPED)
