"""Turn a job into tasks, one for each picture, without holding them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ..models.checkpoint import Checkpoint
from ..outputs import names
from ..outputs.files import slug
from ..sampling import identity
from ..sampling.items import Item
from ..settings import methods, samplers
from . import grid, pipelines
from .job import Job
from .rows import Row

Shard = tuple[int, int]  # a part of the tasks and the number of parts; parts count from 0


@dataclass(frozen=True, eq=False)
class Point:
    """A point of the grid: a model with methods, a sampler and the arguments of its calls.

    `label` names what the grid changes, and is empty without a grid. `common` is the part of a record that
    its pictures share.
    """

    number: int
    label: str
    changes: Mapping[str, Any]
    model: Checkpoint
    methods: tuple[Any, ...]
    call: Mapping[str, Any]
    common: Mapping[str, Any]
    kind: pipelines.Kind

    @cached_property
    def folder(self) -> str:
        """The subfolder of the point in a layout that names files itself."""
        return slug(self.label, 80) if self.label else ""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A task is one picture to make: a prompt with a seed at a point of the grid.

    `id` is a checksum of all that shapes the picture and of `path`, its file below the output folder. `place`
    counts the pictures of a prompt.
    """

    number: int
    point: Point
    row: Row
    seed: int
    place: int
    id: str
    path: PurePosixPath

    @property
    def item(self) -> Item:
        """The prompt and the seed."""
        return Item(self.row.prompt, self.seed)

    def like(self, other: Task) -> bool:
        """Return whether both can be made in one call."""
        return self.point is other.point and self.row.call == other.row.call


def points(
    job: Job, device: str | None = None, find: Callable[[str, Path], Checkpoint] = pipelines.find
) -> list[Point]:
    """Return the points of the grid, one without a grid. No weights are loaded.

    `find` resolves the name of a model, given the folder of the job file.
    Raises `ValueError` for models, methods, samplers and arguments that do not fit.
    """
    found: list[Point] = []
    models: dict[str, Checkpoint] = {}
    for changes in grid.points(job.grid):
        name = str(changes.get(grid.MODEL, job.model.name))
        if name not in models:
            models[name] = find(name, job.path.parent)
        kind = pipelines.device(device or job.model.device)
        found.append(_point(job, len(found), changes, models[name], kind))
    return found


def tasks(job: Job, found: Sequence[Point], shard: Shard = (0, 1)) -> Iterator[Task]:
    """Return the tasks in their order: points, then prompts, then seeds.

    `shard` (i, n) takes task i and every n-th after it.
    """
    number = 0
    for point in found:
        for row in job.rows():
            for place, seed in enumerate(_seeds(job, row)):
                if number % shard[1] == shard[0]:
                    yield _task(job, point, row, seed, place, number)
                number += 1


def paths(job: Job, point: Point, row: Row) -> list[PurePosixPath | None]:
    """Return the file of each picture of a row; `None` for names that follow from all settings.

    Raises `ValueError` for a row that the layout or the template cannot name.
    """
    return [_named(job, point, row, seed, place) for place, seed in enumerate(_seeds(job, row))]


def _seeds(job: Job, row: Row) -> tuple[int, ...]:
    return job.seeds if row.seed is None else (row.seed,)


def _task(job: Job, point: Point, row: Row, seed: int, place: int, number: int) -> Task:
    common = point.common
    if row.call:
        common = {**common, "call": {**common["call"], **row.call}}
    record = identity.of(Item(row.prompt, seed), common)
    path = _named(job, point, row, seed, place)
    if path is None:
        path = PurePosixPath(f"{identity.name(record)}{point.kind.suffix}")
    return Task(number, point, row, seed, place, _digest(f"{identity.mark(record)}/{path}"), path)


def _named(job: Job, point: Point, row: Row, seed: int, place: int) -> PurePosixPath | None:
    """Return the file that the layout or the template of a job names."""
    suffix = point.kind.suffix
    if job.layout is not None:
        return PurePosixPath(point.folder) / job.layout.path(row, place, suffix)
    if job.output.name is None:
        return None
    texts = {key: value for key, value in row.meta.items() if isinstance(value, (str, int, float))}
    own = {"index": row.index, "prompt": row.prompt, "seed": seed, "k": place}
    own |= {"model": slug(point.model.name), "point": point.folder or "all"}
    return PurePosixPath(names.name(job.output.name, texts | own, job.out, suffix).relative_to(job.out))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _point(job: Job, number: int, changes: Mapping[str, Any], model: Checkpoint, device: str) -> Point:
    label = ", ".join(f"{name}={_brief(value)}" for name, value in changes.items())
    call = {**job.call, **changed(changes, grid.CALL)}
    kind = pipelines.kind(model, job.output, call, job.path)
    built = _methods(job, changes, model)
    settings = [methods.as_dict(m) for m in built]
    if job.sampler is not None:
        scorers, sampler = job.sampler.scorers(model), job.sampler.build(changed(changes, grid.SAMPLER))
        settings.append(samplers.as_dict(sampler, scorers.facts if scorers else ()))
    common = identity.planned(model, settings, {**model.call, **call}, job.model.dtype, device)
    if kind.fps:
        common |= {"fps": kind.fps}
    return Point(number, label, changes, model, built, call, common, kind)


def _methods(job: Job, changes: Mapping[str, Any], model: Checkpoint) -> tuple[Any, ...]:
    """Build the methods of a point: what is known for its model, then the job's settings, then the grid's."""
    names = list(job.methods)
    if grid.METHOD in changes:
        names = [n for n in changes[grid.METHOD].split("+") if n != methods.PLAIN]
    preset = job.model.preset
    known = model.required_preset() if preset and names else None if preset is False else model.preset
    built = []
    for name in names:
        table = (known.settings if known else {}).get(name, {})
        values = {**table, **job.methods.get(name, {}), **changed(changes, name)}
        built.append(methods.method_class(name)(**values))
    return tuple(built)


def changed(changes: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Return the fields of `owner` that a point of the grid changes."""
    pairs = ((*name.partition("."),) for name in changes)
    return {field: changes[f"{o}.{field}"] for o, dot, field in pairs if dot and o == owner}


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
