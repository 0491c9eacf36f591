"""Work through the tasks of a job: claim the next free one, make it, write what became of it.

Any number of processes may do this on one folder. Each walks through all tasks in their order and takes those
that nobody has. At the end it waits for the tasks that others hold, since these may die.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from .job import Job
from .keeper import Held, Keeper
from .maker import Maker, Refused, facts
from .manifest import FAILED, Line
from .tasks import Point, Task
from .watch import Watch

ALIKE = 5  # failures of one kind at a point before anything was made there; more would be a waste of hours
PATIENCE = 0.2  # s between two looks at tasks that other processes hold


def work(
    job: Job,
    tasks: Iterable[Task],
    maker: Maker,
    keeper: Keeper,
    watch: Watch,
    *,
    batch: int = 1,
    each: Callable[[], None] = lambda: None,
) -> None:
    """Make all tasks that are not finished and that no other process makes; `each` is called after a batch.

    What fails is written down, and the walk goes on. Raises `Interrupted` after a request to stop, `OSError`
    where files cannot be written, and `ValueError` if nothing at all can be made.
    """
    hopeless = Hopeless(alone=len(job.grid) == 0)
    for group in claims(job, tasks, keeper, watch, batch):
        watch.begin(len(group))
        if not group:
            time.sleep(PATIENCE)
            continue
        with given_back(group, keeper):
            record(_lines(job, group, maker, keeper, watch, hopeless), group, keeper, hopeless)
        watch.look()
        each()


@contextmanager
def given_back(group: Sequence[Held], keeper: Keeper) -> Iterator[None]:
    """Give claims back when the block ends, however it ends."""
    try:
        yield
    finally:
        for held in group:
            keeper.give_back(held)


def record(lines: Sequence[Line], group: Sequence[Held], keeper: Keeper, hopeless: Hopeless) -> None:
    """Write the lines of a group into the manifest, signed with who wrote them and when."""
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    who = f"{platform.node()}:{os.getpid()}"
    for line, held in zip(lines, group, strict=True):
        keeper.writer.add({"worker": who, "time": now} | line)
        hopeless.note(held.task.point, line)


def claims(job: Job, tasks: Iterable[Task], keeper: Keeper, watch: Watch, size: int) -> Iterator[list[Held]]:
    """Claim tasks in their order, and give them in groups of up to `size` that can be made in one call.

    Tasks that others hold come last, once they are free. A group is empty if there is nothing to do but wait
    for them.
    """
    own = job.output.layout is None and job.output.name is None
    group: list[Held] = []
    busy: list[Task] = []
    for task in tasks:
        if group and not task.like(group[0].task):
            yield group
            group = []
        if _over(task, keeper, watch):
            watch.passed(task)
        elif (held := keeper.take(task, own, watch.look)) is None:
            busy.append(task)
        elif _free(held, keeper, watch):
            group.append(held)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
    while busy:
        watch.look()
        rest, busy = busy, []
        for task in rest:
            if _over(task, keeper, watch):
                watch.passed(task)
            elif (held := keeper.take(task, own, watch.look)) is None:
                busy.append(task)
            elif _free(held, keeper, watch):
                yield [held]
        if len(busy) == len(rest):
            yield []


def _over(task: Task, keeper: Keeper, watch: Watch) -> bool:
    """Return whether a task is finished, or failed since this process began."""
    return watch.failed_now(task.id) or keeper.finished(task)


def _free(held: Held, keeper: Keeper, watch: Watch) -> bool:
    """Return whether a task that was claimed is to be made: another process may have ended it just before."""
    if _over(held.task, keeper, watch):
        keeper.give_back(held)
        return False
    return True


class Hopeless:
    """Remember the points of the grid at which nothing can be made, with the reason of each."""

    def __init__(self, alone: bool) -> None:
        self._alone, self._reasons, self._alike = alone, dict[Point, str](), dict[Point, list[str]]()

    def reason(self, point: Point) -> str | None:
        """Return why the tasks of a point are not tried."""
        return self._reasons.get(point)

    def refuse(self, point: Point, error: Refused) -> str:
        """Give up a point. Raises `error` if the job has no other."""
        if self._alone:
            raise error
        return self._reasons.setdefault(point, str(error))

    def note(self, point: Point, line: Line) -> None:
        """Give up a point whose first tasks have all failed alike."""
        found = self._alike.setdefault(point, [])
        if len(found) < ALIKE:
            failed = line["status"] == FAILED
            found.append(line["reason"].partition(" (prompt")[0] if failed else "")
            if failed and len(found) == ALIKE and len(set(found)) == 1:
                self._reasons[point] = f"not tried, since the first {ALIKE} failed alike: {found[0]}"


def _lines(
    job: Job, group: Sequence[Held], maker: Maker, keeper: Keeper, watch: Watch, hopeless: Hopeless
) -> list[Line]:
    """Make the pictures of a group; return a line for each."""
    tasks, point = [held.task for held in group], group[0].task.point
    reason = hopeless.reason(point)
    if reason is None:
        places = [keeper.place(task, job.layout) for task in tasks]
        try:
            return maker.make(tasks, places, watch)
        except Refused as error:
            reason = hopeless.refuse(point, error)
    return [facts(job, task, FAILED) | {"reason": reason} for task in tasks]
