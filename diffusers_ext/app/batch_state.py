"""Hold one batch: its pictures, what is finished of them, and its run."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import MethodError
from ..jobs import job as jobs
from ..jobs import tasks
from ..jobs.keeper import Keeper
from ..jobs.manifest import DONE, Index, Line
from ..jobs.page import Page
from ..jobs.work import work
from ..models.logs import quiet_libraries
from ..outputs.stop import Interrupted
from . import batch_check
from .asked import without_paths
from .batch_mark import BY_VISITOR, Mark
from .batch_run import Turns, Watch
from .engine import Engine, sentence

OUT = "pictures"  # the folder of them in that of a batch
KEYS = (  # of a line of the manifest, which stay in memory
    "id",
    "status",
    "file",
    "prompt",
    "seed",
    "point",
    "verdict",
    "flags",
    "seconds",
    "score",
    "size",
    "reason",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture of a batch, as its table shows it."""

    number: int
    prompt: str
    seed: int
    point: str
    state: str = "waits"
    verdict: str = ""
    seconds: float | None = None


@dataclass
class Batch:
    """A batch of a visitor in its `folder`: what it makes, what is finished, and its run.

    `id` cannot be guessed: who has it may see the batch.
    """

    id: str
    folder: Path
    engine: Engine
    title: str
    data: Mapping[str, Any]
    notes: Sequence[str] = ()
    reason: str = ""  # why nothing goes on
    _lines: dict[str, Line] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _stays: bool = False
    _thread: threading.Thread | None = field(default=None, repr=False)
    _watch: Watch | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._mark = Mark(self.folder)
        table = {**self.data.get("model", {}), "dtype": self.engine.dtype}
        if self.engine.dtype is None:
            del table["dtype"]
        models = self.engine.models
        try:
            self.job = jobs.Job.of({**self.data, "model": table}, self.folder / self.title, self.out)
            device = self.engine.devices[0]
            found = tasks.points(self.job, device, lambda name, home: models.resolve(name))
            self.points = [_without_paths(point) for point in found]
            rows = batch_check.rows_of(self.job, self.points)
            self._rows = [(row.prompt, seed, point.label) for point, row, seed in rows]
            self._ids = [task.id for task in tasks.tasks(self.job, self.points)]
        except (ValueError, OSError) as error:
            raise MethodError(str(error).replace(f"{self.folder}/", "")) from error
        if not self._rows:
            raise MethodError("the batch has no prompt; write one on each line.")
        Index(self.out).refresh(self._note)

    @property
    def out(self) -> Path:
        """The folder of its pictures."""
        return self.folder / OUT

    @property
    def total(self) -> int:
        """The number of its pictures."""
        return len(self._rows)

    @property
    def running(self) -> bool:
        """True while its pictures are made."""
        return self._thread is not None and self._thread.is_alive()

    def counts(self) -> tuple[int, int, int]:
        """Return how many pictures are finished, how many of these are right, and how many failed."""
        with self._lock:
            lines = [self._lines[task] for task in self._ids if task in self._lines]
        done = [line for line in lines if line["status"] == DONE]
        right = sum(line.get("verdict", {}).get("correct", False) for line in done)
        return len(done), right, len(lines) - len(done)

    def words(self) -> str:
        """Say where the batch is, in one sentence."""
        done, right, failed = self.counts()
        parts = [f"{done} of {self.total} pictures are finished"]
        if any("verdict" in line for line in self.lines()):
            parts.append(f"{right} right")
        if failed:
            parts.append(f"{failed} could not be made")
        if self.running:
            watch = self._watch
            parts.append(watch.words if watch is not None and watch.words else "starts")
        elif self.reason:
            parts.append(self.reason)
        elif done + failed < self.total:
            parts.append("it can go on")
        return ", ".join(parts)

    def left_s(self) -> float | None:
        """Return the seconds until the end, by the pictures of this run; `None` before the first."""
        watch = self._watch
        if not self.running or watch is None or watch.finished <= watch.known:
            return None
        new, spent = watch.finished - watch.known, time.monotonic() - watch.began
        return spent / new * max(self.total - sum(self.counts()[::2]), 0)

    def entries(self, first: int, count: int) -> list[Entry]:
        """Return some pictures, in their order."""
        return [self._entry(number) for number in range(max(first, 0), min(first + count, self.total))]

    def now(self) -> int:
        """Return the number of the first picture that waits."""
        with self._lock:
            waits = (number for number, task in enumerate(self._ids) if task not in self._lines)
            return next(waits, self.total)

    @property
    def interrupted(self) -> bool:
        """True if the server ended while it ran, and it is not the batch that ends every server.

        A batch that a server went on with has made something since then.
        """
        left = self._mark.left()
        return left is not None and left < self._tried

    def start(self, again: bool = False) -> None:
        """Make what is not finished, in a thread; does nothing while it runs.

        `again` says that a server goes on with it, and no visitor. Raises `ValueError` if another server has
        it.
        """
        tried = self._tried if again else BY_VISITOR
        with self._lock:
            if self.running:
                return
            self._mark.put(tried)
            self._stop.clear()
            self._stays, self.reason = False, ""
            self._thread = threading.Thread(target=self._run, name=f"batch {self.id[:8]}", daemon=True)
            self._thread.start()

    def stop(self, stays: bool = False) -> None:
        """Ask the run to end; it does within one step.

        With `stays`, the next server goes on with it, unless it was asked to end before.
        """
        if not (stays and self._stop.is_set()):
            self._stays = stays
        self._stop.set()
        self.engine.cancel(self._owner)

    def join(self, seconds: float) -> None:
        """Wait until the run has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    def lines(self) -> list[Line]:
        """Return the last line of each picture that was tried, in their order; equal pictures have one."""
        with self._lock:
            return [self._lines[task] for task in dict.fromkeys(self._ids) if task in self._lines]

    @property
    def _tried(self) -> int:
        done, _, failed = self.counts()
        return done + failed

    @property
    def _owner(self) -> str:
        return f"batch {self.id}"

    def _entry(self, number: int) -> Entry:
        prompt, seed, point = self._rows[number]
        with self._lock:
            line = self._lines.get(self._ids[number])
        if line is None:
            return Entry(number, prompt, seed, point)
        if line["status"] != DONE:
            return Entry(number, prompt, seed, point, "failed", line["reason"])
        found = line.get("verdict")
        verdict = "" if found is None else f"{'right' if found['correct'] else 'wrong'}: {found['reason']}"
        if line["flags"]:
            verdict = f"looks wrong: {', '.join(line['flags'])}"
        return Entry(number, prompt, seed, point, "finished", verdict, line["seconds"])

    def _note(self, line: Line, again: bool) -> None:
        with self._lock:
            self._lines[line["id"]] = {key: line[key] for key in KEYS if key in line}

    def _run(self) -> None:
        quiet_libraries()
        keeper = None
        try:
            self.out.mkdir(exist_ok=True)
            page = Page(self.title, self.out)

            def each(line: Line, again: bool) -> None:
                page.add(line, again)
                self._note(line, again)

            keeper = Keeper(self.out, each)
            watch = self._watch = Watch(self.total, keeper.index, self.job.mark, self._stop, each)
            try:
                turns = Turns(self.job, self.engine, self._owner, self._stop)
                todo = tasks.tasks(self.job, self.points)
                work(self.job, todo, turns, keeper, watch, each=lambda: page.grow(watch))
            finally:
                page.grow(watch, end=True)
        except Interrupted as error:
            self.reason = str(error)
        except BaseException as error:
            self.reason = sentence(error).replace(f"{self.folder}/", "")
        finally:
            if keeper is not None:
                keeper.close()
            self._mark.remove(self._stays)


def _without_paths(point: tasks.Point) -> tasks.Point:
    methods = without_paths(point.common["methods"])
    return replace(point, common={**point.common, "methods": methods})
