"""Run what visitors ask for, one job at a time on each device, and turn errors into one sentence."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..models.checkpoint import Checkpoint
from ..outputs.stop import Interrupted
from ..sampling.failures import free_memory, out_of_memory
from .models import Models

CANCELLED = "cancelled; nothing of this run is kept"


class Refused(ValueError):
    """A request cannot be met; the text is one sentence for the visitor."""


class Control:
    """A control shows the visitor what a job does, and ends the job where the visitor has cancelled."""

    def __init__(self, show: Callable[[Any], None]) -> None:
        self.show = show
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """True once the visitor has cancelled, or has left."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the job to end. It does so within one step."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise `Interrupted` if the visitor has cancelled."""
        if self.cancelled:
            raise Interrupted(CANCELLED)


@dataclass(frozen=True, slots=True)
class Done:
    """The last that a job gives: its result."""

    result: Any


@dataclass
class Engine:
    """The devices of a server, each with one model in memory and one job at a time.

    `models` says which models visitors may name. All that belongs to one job is on its stack, so no setting
    goes from one visitor to another.
    """

    models: Models
    devices: tuple[str | None, ...] = (None,)
    dtype: str | None = None
    _free: list[int] = field(default_factory=list, repr=False)
    _line: list[Control] = field(default_factory=list, repr=False)  # who waits, in their order
    _loaded: dict[int, tuple[str, Checkpoint, Any]] = field(default_factory=dict, repr=False)
    _jobs: dict[str, set[Control]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _turn: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def __post_init__(self) -> None:
        self._free += range(len(self.devices))

    def run(self, visitor: str, work: Callable[[Control, Place], Any]) -> Iterator[Any]:
        """Run `work(control, place)` on a free device, and yield all that it shows; last comes `Done`.

        The job runs in a thread of its own, so an abandoned iterator ends it too. Raises `Refused` with one
        sentence for whatever fails.
        """
        shown: queue.SimpleQueue = queue.SimpleQueue()
        control = Control(lambda what: shown.put((None, what)))
        with self._lock:
            self._jobs.setdefault(visitor, set()).add(control)
        thread = threading.Thread(target=self._work, args=(work, control, shown), daemon=True)
        try:
            thread.start()
            while True:
                end, what = shown.get()
                if end is None:
                    yield what
                elif isinstance(what, BaseException):
                    raise Refused(sentence(what)) from None
                else:
                    yield Done(what[0])
                    return
        finally:
            control.cancel()  # does nothing to a job that has ended
            with self._lock:
                self._jobs[visitor].discard(control)
                if not self._jobs[visitor]:
                    del self._jobs[visitor]

    def cancel(self, visitor: str) -> int:
        """Cancel all jobs of a visitor, also those that wait; return how many there were."""
        with self._lock:
            jobs = list(self._jobs.get(visitor, ()))
        for control in jobs:
            control.cancel()
        return len(jobs)

    def _work(self, work: Callable[..., Any], control: Control, shown: queue.SimpleQueue) -> None:
        place = None
        try:
            place = self._place(control)
            result = work(control, Place(self, place))
        except BaseException as error:
            shown.put((True, error.with_traceback(None)))  # frames would hold tensors
        else:
            shown.put((True, (result,)))
        finally:
            if place is not None:
                free_memory()
                with self._turn:
                    self._free.append(place)
                    self._turn.notify_all()

    def _place(self, control: Control) -> int:
        """Wait for a device; who came first is served first. Raises `Interrupted` if the visitor cancels."""
        with self._turn:
            self._line.append(control)
            try:
                while not (self._free and self._line[0] is control):
                    control.check()
                    self._turn.wait(0.2)
                control.check()
                return self._free.pop()
            finally:
                self._line.remove(control)
                self._turn.notify_all()


@dataclass(frozen=True, slots=True)
class Place:
    """One device of an engine, held by one job."""

    engine: Engine
    number: int

    @contextmanager
    def pipeline(self, name: str) -> Iterator[tuple[Checkpoint, Any]]:
        """Give a model and a pipeline of one's own: a copy with its own scheduler, sharing the weights.

        A model that is not in memory replaces the one that is.
        """
        checkpoint, pipe = self._load(name)
        own = copy.copy(pipe)
        own.scheduler = copy.deepcopy(pipe.scheduler)
        own.set_progress_bar_config(disable=True)
        yield checkpoint, own

    def _load(self, name: str) -> tuple[Checkpoint, Any]:
        loaded = self.engine._loaded
        held = loaded.get(self.number)
        if held is not None and held[0] == name:
            return held[1], held[2]
        checkpoint = self.engine.models.resolve(name)
        if held is not None:
            del loaded[self.number], held
            free_memory()
        pipe = checkpoint.load(self.engine.devices[self.number], self.engine.dtype)
        loaded[self.number] = name, checkpoint, pipe
        return checkpoint, pipe


def sentence(error: BaseException) -> str:
    """Return one sentence for a visitor. Paths, frames and class names stay on the server."""
    if isinstance(error, (ValueError, OSError, Interrupted)):
        return " ".join(str(error).split()) or CANCELLED
    if out_of_memory(error):
        return "out of memory; ask for a smaller size or fewer pictures, and try again"
    import logging

    logging.getLogger(__name__).error("a job failed", exc_info=error)
    return (
        f"the job failed with {type(error).__name__}, which is a fault of the server; its log has the reason"
    )


def known_settings(checkpoint: Checkpoint) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings that are known for a model, by method; empty without a preset."""
    preset = checkpoint.preset
    return {} if preset is None else preset.settings
