"""Make the tasks of a job with actors of Ray, on one machine or on a cluster.

The driver claims tasks, writes files and the manifest. Each actor has a model and returns finished files as
bytes. So the output folder need only be reached by the driver, and other processes may share the job as well.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..models.logs import quiet_libraries
from ..outputs.files import write_bytes
from ..outputs.stop import Interrupted
from . import tasks as t
from .fleet import Options, opened
from .job import Job
from .keeper import Held, Keeper, stamp
from .maker import Maker, Refused, facts
from .manifest import DONE, FAILED, Line
from .tasks import Point, Task
from .watch import Attempts, Watch
from .work import PATIENCE, Hopeless, claims, record

TRIES = 3  # workers that may die of one task


class Worker:
    """The part of the work that an actor does: making pictures."""

    def __init__(self, job: Job, points: Sequence[Point], device: str | None) -> None:
        self._points, self._maker = points, Maker(job, device)
        self._attempts = Attempts(0)

    def make(self, tasks: Sequence[Task]) -> list[tuple[Line, bytes]] | str:
        """Make tasks that are alike; a line and the file for each, or why the point cannot be made."""
        tasks = [replace(task, point=self._points[task.point]) for task in tasks]
        self._attempts.caught.clear()
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(folder) / f"{i}{task.path.suffix}" for i, task in enumerate(tasks)]
            try:
                lines = self._maker.make(tasks, places, self._attempts)
            except Refused as error:
                return str(error)
            return [
                (line, place.read_bytes() if line["status"] == DONE else b"")
                for line, place in zip(lines, places, strict=True)
            ]


@dataclass(slots=True, eq=False)
class _Running:
    """A group of tasks that an actor is making."""

    actor: Any
    group: list[Held]
    tries: int = 1


def fleet(job: Job, options: Options, workers: int | None = None) -> Watch:
    """Make the tasks of a job with `workers` actors, by default one for each GPU, or one.

    Raises as `fleet.local` does, and `ValueError` if Ray is missing or has no room for the actors.
    """
    ray = _ray()
    quiet_libraries()
    with _connected(ray):
        gpus = 0 if job.model.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        workers = _workers(ray, workers, gpus)
        device = job.model.device or ("cuda" if gpus else "cpu")
        points = t.points(job, device)
        actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(Worker)
        with opened(job, points, options) as (keeper, watch, page):
            pool = _Pool(ray, lambda: actor.remote(job, points, device), workers)
            groups = claims(job, t.tasks(job, points, options.shard), keeper, watch, options.batch)
            try:
                for _ in _made(job, pool, groups, keeper, watch):
                    watch.look()
                    page.grow(watch)
            finally:
                pool.close(keeper)
    return watch


class Died(str):
    """The reason why a group could not be made, though its point may be fine."""


class _Pool:
    """Actors that make tasks, and those that wait for some."""

    def __init__(self, ray: Any, start: Any, size: int) -> None:
        self.ray, self._start = ray, start
        self.idle = [start() for _ in range(size)]
        self.running: dict[Any, _Running] = {}

    def give(self, group: list[Held], actor: Any = None, tries: int = 1) -> None:
        """Let an actor make a group of tasks."""
        actor = self.idle.pop() if actor is None else actor
        tasks = [replace(held.task, point=held.task.point.number) for held in group]
        self.running[actor.make.remote(tasks)] = _Running(actor, group, tries)

    def ended(self) -> Iterator[tuple[_Running, Any]]:
        """Give groups that ended, with the answer of their actor. One whose actor died is begun again."""
        found, _ = self.ray.wait(list(self.running), timeout=PATIENCE) if self.running else ([], [])
        for ref in found:
            running = self.running.pop(ref)
            try:
                answer = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                with suppress(Exception):  # it may be dead
                    self.ray.kill(running.actor)
                running.actor = self._start()
                if running.tries < TRIES:
                    self.give(running.group, running.actor, running.tries + 1)
                    continue
                why = next(iter(str(error).splitlines()), type(error).__name__)
                answer = Died(f"{TRIES} workers died while they made it, the last of: {why}")
            self.idle.append(running.actor)
            yield running, answer

    def close(self, keeper: Keeper) -> None:
        """End all actors, and give back what they held."""
        for running in self.running.values():
            for held in running.group:
                keeper.give_back(held)
        for actor in [*self.idle, *(running.actor for running in self.running.values())]:
            with suppress(Exception):  # it may be dead
                self.ray.kill(actor)


def _made(
    job: Job, pool: _Pool, groups: Iterator[list[Held]], keeper: Keeper, watch: Watch
) -> Iterator[None]:
    """Keep all actors at work until nothing is left; yield now and then."""
    hopeless, more, stop = Hopeless(alone=not job.grid), True, None
    while more or pool.running:
        while more and pool.idle:
            try:
                watch.begin(len(pool.running))
            except Interrupted as error:  # what is being made is finished first
                more, stop = False, error
                break
            group = next(groups, None)
            if group is None:
                more = False
            elif not group:
                if not pool.running:  # other processes hold all that is left
                    time.sleep(PATIENCE)
                break
            elif reason := hopeless.reason(group[0].task.point):
                _write(job, group, reason, keeper, hopeless)
            else:
                pool.give(group)
        for running, answer in pool.ended():
            if isinstance(answer, str) and not isinstance(answer, Died):
                answer = hopeless.refuse(running.group[0].task.point, Refused(answer))
            _write(job, running.group, answer, keeper, hopeless)
        yield
    if stop is not None:
        raise stop


def _write(job: Job, group: list[Held], answer: Any, keeper: Keeper, hopeless: Hopeless) -> None:
    """Write the files and lines of a group, or why there are none."""
    try:
        if isinstance(answer, str):
            lines = [facts(job, held.task, FAILED) | {"reason": answer} for held in group]
        else:
            lines = [
                _kept(job, held, line, data, keeper) for held, (line, data) in zip(group, answer, strict=True)
            ]
        record(lines, group, keeper, hopeless)
    finally:
        for held in group:
            keeper.give_back(held)


def _kept(job: Job, held: Held, line: Line, data: bytes, keeper: Keeper) -> Line:
    place = keeper.place(held.task, job.layout)
    if line["status"] != DONE:
        return line
    write_bytes(place, data)
    return line | stamp(place)


def _workers(ray: Any, asked: int | None, gpus: int) -> int:
    """Return the number of actors; more than there is room for would wait for ever."""
    count, what = (gpus, "GPUs") if gpus else (int(ray.cluster_resources().get("CPU", 1)), "CPUs")
    if asked is None:
        return gpus or 1
    if not 1 <= asked <= count:
        raise ValueError(f"--workers must be from 1 to {count}, the {what} that Ray has, got {asked}")
    return asked


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or of this machine, or begin one, which ends with the context."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(configure_logging=False, log_to_driver=False, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--engine ray needs Ray, which comes with the extra 'ray'; run pip install 'diffusers-ext[ray]'"
        ) from error
    return ray
