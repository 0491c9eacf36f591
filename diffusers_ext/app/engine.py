"""Run what visitors ask for, one job at a time on each device, and turn errors into one sentence."""

from __future__ import annotations

import copy
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ..models.checkpoint import Checkpoint
from ..outputs.stop import Interrupted
from ..sampling.failures import free_memory, out_of_memory
from .line import CANCELLED, Control, Line, Refused, Ticket
from .models import Models

MOST = 1000  # characters of an error; some repeat what a visitor sent
PATIENCE_S = 60  # for the step of a job, or the loading of a model, when a server ends


@dataclass(frozen=True, slots=True)
class Done:
    """The last that a job gives: its result."""

    result: Any


@dataclass
class Engine:
    """The devices of a server, each with one model in memory and one job at a time.

    `models` says which models visitors may name. Up to `waiting` requests wait, `each` of one visitor. A free
    device goes to the visitor who was served longest ago. All that belongs to one job is on its stack, so no
    setting goes from one visitor to another.
    """

    models: Models
    devices: tuple[str | None, ...] = (None,)
    dtype: str | None = None
    waiting: int = 20
    each: int = 4
    _loaded: dict[int, tuple[str, Checkpoint, Any]] = field(default_factory=dict, repr=False)
    _kept: dict[int, tuple[Any, Any]] = field(default_factory=dict, repr=False)
    _jobs: dict[str, set[Control]] = field(default_factory=dict, repr=False)
    _threads: set[threading.Thread] = field(default_factory=set, repr=False)
    _line: Line = field(init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._line = Line(len(self.devices), self.waiting, self.each)

    def run(
        self, visitor: str, work: Callable[[Control, Place], Any], *, bounded: bool = True
    ) -> Iterator[Any]:
        """Run `work(control, place)` on a free device, and yield all that it shows; last comes `Done`.

        While the request waits, `Waiting` says how many are before it. The job runs in a thread of its own,
        and ends when the iterator is closed. Raises `Refused` with one sentence for whatever fails, and for
        a request that finds the queue full. A batch comes back for each of its pictures, so it is not
        `bounded`.
        """
        shown: queue.SimpleQueue = queue.SimpleQueue()
        control = Control(lambda what: shown.put((None, what)))
        ticket = self._line.enter(visitor, bounded)
        with self._lock:
            self._jobs.setdefault(visitor, set()).add(control)
        thread = threading.Thread(target=self._work, args=(work, control, ticket, shown), daemon=True)
        self._threads.add(thread)
        try:
            self._start(thread, ticket)
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

    def close(self) -> None:
        """Cancel all jobs, and wait until the last thread has ended."""
        with self._lock:
            jobs = [control for own in self._jobs.values() for control in own]
            threads = list(self._threads)
        for control in jobs:
            control.cancel()
        for thread in threads:
            thread.join(PATIENCE_S)

    def warm(self, name: str) -> None:
        """Load a model in the background, so that the first visitor need not wait for it."""
        jobs = self.run("", lambda control, place: place.load(name))

        def load() -> None:
            with suppress(Refused):  # which the first visitor gets too
                list(jobs)

        threading.Thread(target=load, daemon=True).start()

    def _start(self, thread: threading.Thread, ticket: Ticket) -> None:
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads; nobody may wait behind this place
            self._line.leave(ticket)
            self._threads.discard(thread)
            raise Refused("the server is too busy; try again in a minute") from None

    def _work(
        self, work: Callable[..., Any], control: Control, ticket: Ticket, shown: queue.SimpleQueue
    ) -> None:
        try:
            number = self._line.wait(ticket, control)
        except BaseException as error:
            self._line.leave(ticket)
            self._threads.discard(threading.current_thread())
            shown.put((True, error.with_traceback(None)))
            return
        try:
            result = work(control, Place(self, number))
        except BaseException as error:
            shown.put((True, error.with_traceback(None)))  # frames would hold tensors
            free_memory()
        else:
            shown.put((True, (result,)))
        finally:
            self._line.give_back(number)
            self._threads.discard(threading.current_thread())


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
        checkpoint, pipe = self.load(name)
        own = copy.copy(pipe)
        own.scheduler = copy.deepcopy(pipe.scheduler)
        own.set_progress_bar_config(disable=True)
        yield checkpoint, own

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made last on this device with the same key, or make it. Rewards stay so."""
        held = self.engine._kept.get(self.number)
        if held is None or held[0] != key:
            del held
            self.engine._kept.pop(self.number, None)  # its memory is free before the next is made
            held = self.engine._kept[self.number] = key, make()
        return held[1]

    def load(self, name: str) -> tuple[Checkpoint, Any]:
        """Return a model and its pipeline, which other jobs share."""
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
    if isinstance(error, OSError) and error.strerror:  # of the system, with the path of a file
        return f"the server could not use a file of its own ({error.strerror}); try again later"
    if isinstance(error, (ValueError, OSError, Interrupted)):
        text = " ".join(str(error).split()) or CANCELLED
        return text if len(text) <= MOST else f"{text[:MOST]}..."
    if out_of_memory(error):
        return "out of memory; ask for a smaller size or fewer pictures, and try again"
    logging.getLogger(__name__).error("a job failed", exc_info=error)
    return (
        f"the job failed with {type(error).__name__}, which is a fault of the server; its log has the reason"
    )


def known_settings(checkpoint: Checkpoint) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings that are known for a model, by method; empty without a preset."""
    preset = checkpoint.preset
    return {} if preset is None else preset.settings
