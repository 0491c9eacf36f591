"""Say what a job will make and how long that takes, without making anything."""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import tasks as t
from .fleet import count
from .job import Job
from .keeper import intact
from .manifest import Index
from .watch import duration

_NAMED = 8  # points of the grid
_TEMPLATE = re.compile(r"\{[^{}|]*\|[^{}]*\}|(?<!\w)__\w[\w/*-]{0,99}__(?!\w)")


def forecast(job: Job, shard: t.Shard = (0, 1)) -> Iterator[str]:
    """Say in lines how many tasks there are, how many are finished, and how long the others will take.

    Raises `ValueError` for a job that cannot be made, as far as that is known without its weights.
    """
    points = t.points(job)
    count(job, points, shard)  # checks all prompts
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
    tried = f", {failed} of which failed before" if failed else ""
    yield f"{job.path}: {total} task{'s' * (total != 1)}, {done} finished, {left} to make{tried}"
    if (note := literal(job)) is not None:
        yield note
    if len(points) > 1:
        labels = [point.label for point in points[:_NAMED]] + ["..."] * (len(points) > _NAMED)
        yield f"{len(points)} points of the grid: {'; '.join(labels)}"
    if not left:
        yield "nothing to do"
    elif seconds:
        each = sum(seconds) / len(seconds)
        yield (
            f"estimated time: {duration(left * each)} for one worker, at {each:.2f} s a picture as in the "
            f"{done} finished ones, and the time to load models"
        )
    else:
        yield "estimated time: unknown until the first picture is finished"
    yield f"output folder: {job.out}"


def literal(job: Job) -> str | None:
    """Return a sentence on the first prompt with variants or wildcards that nobody writes out, or `None`."""
    if job.prompts.expand:
        return None
    found = ((row, mark[0]) for row in job.rows() if (mark := _TEMPLATE.search(row.prompt)))
    row, mark = next(found, (None, ""))
    if row is None:
        return None
    rest = "which is drawn as it stands; expand = true under [prompts] writes it out"
    return f"note: {row.source} has {mark}, {rest}"
