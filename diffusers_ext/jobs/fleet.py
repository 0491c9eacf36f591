"""Run a job in this process, alone or beside others: started twice, under a launcher, or as a shard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..models.logs import quiet_libraries
from ..outputs.files import output_folder, write_bytes
from . import tasks as t
from .job import Job
from .keeper import Keeper
from .maker import Maker
from .manifest import FOLDER
from .page import Page
from .tasks import Point, Shard
from .watch import Watch
from .work import work


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of this process among those of one launcher, and its device."""

    number: int = 0
    device: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Say how a job is run, which changes no picture."""

    shard: Shard = (0, 1)
    batch: int = 1
    show: bool = False
    debug: bool = False


def rank(device: str | None = None) -> Rank:
    """Return the place that `accelerate launch` or `torchrun` gives this process; 0 without a launcher.

    The processes need each other only to get their numbers. The group that they formed for it is closed at
    once, so none can wait for one that died.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Rank()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    found = Rank(state.process_index, str(state.device))
    state.destroy_process_group()
    return found


def local(job: Job, options: Options) -> Watch:
    """Make the tasks of a job in this process, and return what was counted.

    Raises `Interrupted` after a request to stop, `OSError` where files cannot be written, and `ValueError`
    for a job that cannot be made.
    """
    quiet_libraries()
    place = rank(job.model.device)
    points = t.points(job, place.device)
    maker = Maker(job, job.model.device or place.device)
    with opened(job, points, options, lead=place.number == 0) as (keeper, watch, page):
        try:
            tasks = t.tasks(job, points, options.shard)
            work(job, tasks, maker, keeper, watch, batch=options.batch, each=lambda: page.grow(watch))
        finally:
            maker.close()
    return watch


@contextmanager
def opened(
    job: Job, points: list[Point], options: Options, lead: bool = True
) -> Iterator[tuple[Keeper, Watch, Page]]:
    """Open the output folder of a job, and follow its tasks while the context is open.

    The last version of the page is written however the job ends, if the folder is still there.
    """
    total = count(job, points, options.shard)
    out = output_folder(job.out)
    page = Page(job.path.name, out, lead)
    keeper = Keeper(out, page.add)
    unit = "clip" if points[0].kind.fps else "image"
    watch = Watch(
        total,
        keeper.index,
        job.mark,
        shard=options.shard,
        unit=unit,
        lead=lead,
        show=options.show,
        debug=options.debug,
        each=page.add,
    )
    try:
        _keep_text(job, out / FOLDER / f"job-{job.mark}.toml")
        with watch:
            try:
                yield keeper, watch, page
            finally:
                with suppress(OSError):  # what ended the job says more
                    page.grow(watch, end=True)
            made = watch.finished - watch.known
            before = f", {watch.known} before" if watch.known else ""
            done = f"{watch.finished} of {watch.total} {watch.unit}s are finished"
            watch.line(f"{done}, {made} now{before}: {out}, shown in {page.path.name}")
    finally:
        keeper.close()


def count(job: Job, points: list[Point], shard: Shard) -> int:
    """Return the number of tasks of a shard. This reads all prompts, and raises `ValueError` for bad ones."""
    total = len(points) * sum(len(t.paths(job, points[0], row)) for row in job.rows())
    if not total:
        raise ValueError(f"{job.path}: [prompts] gives no prompt; add some")
    return (total - shard[0] + shard[1] - 1) // shard[1]


def _keep_text(job: Job, path: Path) -> None:
    """Keep the text of the job file beside the manifests, so that the folder explains itself."""
    if not path.exists():
        write_bytes(path, job.path.read_bytes())
