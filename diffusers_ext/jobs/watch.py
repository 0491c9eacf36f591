"""Follow a job over all its workers: what is finished, what failed, how fast it goes, when it ends."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from ..sampling.items import Failed, Item
from ..sampling.progress import Progress
from .manifest import DONE, Each, Index, Line
from .tasks import Shard, Task

_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left, {rate_fmt}"
_EVERY = 0.2  # s between two drawings of the bar
_REPORT = 60.0  # s between two lines where there is no terminal


class Attempts(Progress):
    """Keep the failures of calls aside, in `caught`, and say nothing. Lines of the manifest are counted."""

    def __init__(self, total: int, **options: Any) -> None:
        super().__init__(total, **options)
        self.caught: list[Failed] = []

    def fail(self, failed: Failed) -> None:
        """Keep a failure of the current call; it may be tried again."""
        self.caught.append(failed)

    def say(self, text: str) -> None:
        """Say nothing."""


class Watch(Attempts):
    """Count what the manifests say of a job since this process began, and what was finished before.

    Of the tasks, those of the `shard` count. Equal prompts are tasks of their own, though they have one file.
    The `lead` alone prints: of several processes under one launcher, one does. `each` is called with every
    new line of the job.
    """

    def __init__(
        self,
        total: int,
        index: Index,
        mark: str,
        *,
        shard: Shard = (0, 1),
        unit: str = "image",
        lead: bool = True,
        show: bool = False,
        debug: bool = False,
        each: Each = lambda line, again: None,
    ) -> None:
        super().__init__(total, unit=unit, show=show and lead, debug=debug)
        self._index, self._mark, self.lead, self._each = index, mark, lead, each
        self._shard = shard
        self._done: set[int] = set()  # numbers of tasks
        self._failed: set[str] = set()
        self._said: set[str] = set()  # a text for many seeds is warned of once
        self._share, self._at = 0.0, ""
        self._drawn = self._reported = self._began = time.monotonic()
        self.known = 0  # finished before this process began

    def look(self) -> None:
        """Read what all workers have written since the last look."""
        self._index.refresh(self._note)
        self._draw()
        self._line()

    def _note(self, line: Line, again: bool) -> None:
        if line.get("job") != self._mark:
            return
        self._each(line, again)
        number = line.get("task")
        if number is None or number % self._shard[1] != self._shard[0]:
            return
        self._size, self._share, self._at = 0, 0.0, ""
        if line["status"] == DONE:
            self.finished += number not in self._done
            self._done.add(number)
            for flag in line["flags"]:
                self.say(f"warning: {line['file']} looks wrong: {flag}")
            for text in line.get("warnings", ()):
                if text not in self._said:
                    self.say(f"warning: {text}")
                    self._said.add(text)
        else:
            self._failed.add(line["id"])
            self.failures.append(Failed(Item(line["prompt"], line["seed"]), line["reason"]))
            self.say(f"failed: {line['reason']}")

    def passed(self, task: Task) -> None:
        """Count a task that needs nothing, if no line of it was counted."""
        if task.number in self._done or task.id in self._failed:
            return
        self._done.add(task.number)
        self.finished += 1
        self.known += 1
        if self._bar is not None:
            self._bar.initial = self.known
        self._draw()

    def failed_now(self, task: str) -> bool:
        """Return whether a task failed since this process began, so that only the next run tries it."""
        return task in self._failed

    def say(self, text: str) -> None:
        """Print one line on stderr, above the bar."""
        if self.lead:
            Progress.say(self, text)

    def line(self, text: str) -> None:
        """Print one line on stdout, above the bar."""
        if self.lead:
            super().line(text)

    def _move(self, share: float, step: str) -> None:
        self._share, self._at = share * self._size, step
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._show or now - self._drawn < _EVERY:
            return
        self._drawn = now
        past = self.finished + len(self.failures)
        failed = f", {len(self.failures)} failed" if self.failures else ""
        self._bar.set_description_str(f"{past} of {self.total} {self.unit}s{failed}{self._at}", refresh=False)
        self._bar.n = past + self._share
        with suppress(OSError):
            self._bar.refresh()

    def _line(self) -> None:
        """Print where the job is, now and then, for logs."""
        now = time.monotonic()
        if self._show or not self.lead or now - self._reported < _REPORT:
            return
        self._reported = now
        new, seconds = self.finished - self.known, now - self._began
        left = self.total - self.finished - len(self.failures)
        end = f", about {duration(left * seconds / new)} left" if new else ""
        self.line(f"{self.finished} of {self.total} {self.unit}s, {len(self.failures)} failed{end}")

    def __enter__(self) -> Watch:
        super().__enter__()
        self._bar.bar_format = _BAR
        self._bar.unit = f" {self.unit}s"
        return self


def duration(seconds: float) -> str:
    """Write a time span in words, in its largest unit."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
