"""Run a job in this process, alone or beside others: started twice, under a launcher, or as a shard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ..models.logs import quiet_libraries
from ..outputs.files import output_folder
from . import tasks as t
from .job import Job
from .keeper import Keeper, intact
from .maker import Maker
from .manifest import Index
from .watch import Watch, duration
from .work import work


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of this process among those of one launcher, and its device."""

    number: int = 0
    device: str | None = None


def rank() -> Rank:
    """Return the place that `accelerate launch` gives this process; 0 without a launcher.

    The processes need each other only to get their numbers. The group that they formed for it is closed at
    once, so none can wait for one that died.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Rank()
    from accelerate import PartialState

    state = PartialState()
    found = Rank(state.process_index, str(state.device))
    state.destroy_process_group()
    return found


def local(
    job: Job, shard: tuple[int, int] = (0, 1), *, batch: int = 1, show: bool = False, debug: bool = False
) -> Watch:
    """Make the tasks of a job, or those of a shard, in this process. Returns what was counted.

    Raises `Interrupted` after a request to stop, `OSError` where files cannot be written, and `ValueError`
    for a job that cannot be made.
    """
    quiet_libraries()
    place = rank()
    points = t.points(job, None if place.device is None else place.device.partition(":")[0])
    total = count(job, shard)
    out = output_folder(job.out)
    keeper = Keeper(out)
    maker = Maker(job, job.model.device or place.device)
    unit = "clip" if points[0].kind.fps else "image"
    watch = Watch(total, keeper.index, job.mark, unit=unit, lead=place.number == 0, show=show, debug=debug)
    try:
        with watch:
            work(job, t.tasks(job, points, shard), maker, keeper, watch, batch=batch)
            _say(watch, job)
    finally:
        maker.close()
        keeper.close()
    return watch


def count(job: Job, shard: tuple[int, int]) -> int:
    """Return the number of tasks of a shard."""
    return (job.count() - shard[0] + shard[1] - 1) // shard[1]


def _say(watch: Watch, job: Job) -> None:
    made = watch.finished - watch.known
    before = f", {watch.known} before" if watch.known else ""
    watch.line(f"{watch.finished} of {watch.total} {watch.unit}s are finished, {made} now{before}: {job.out}")


def forecast(job: Job, shard: tuple[int, int] = (0, 1)) -> Iterator[str]:
    """Say in lines how many tasks there are, how many are finished, and how long the others will take."""
    points = t.points(job)
    index = Index(job.out)
    index.refresh()
    done = failed = total = 0
    seconds: list[float] = []
    for task in t.tasks(job, points, shard):
        total += 1
        if index.done(task.id) and intact(job.out, line := index.line(task.id)):
            done += 1
            seconds.append(line["seconds"])
        else:
            failed += index.failed(task.id)
    left = total - done
    yield f"{job.path}: {total} tasks, {done} finished, {left} to make, {failed} of which failed before"
    if len(points) > 1:
        labels = [point.label for point in points[:8]] + ["..."] * (len(points) > 8)
        yield f"{len(points)} points of the grid: {'; '.join(labels)}"
    if not left:
        yield f"nothing to do: {job.out} is complete"
    elif seconds:
        each = sum(seconds) / len(seconds)
        yield (
            f"estimated time: {duration(left * each)} on one worker, at {each:.2f} s a picture as in the "
            f"{done} finished ones, without loading models"
        )
    else:
        yield "estimated time: unknown until the first picture is finished"
    yield f"output folder: {job.out}"
