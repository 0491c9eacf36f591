"""Check the job that a visitor hands in. Nothing in it may read or write outside the folder of its batch."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from reprlib import repr as repr_of
from typing import Any

from ..errors import MethodError
from ..jobs import grid
from ..jobs.job import Job
from ..jobs.rows import Row
from ..jobs.tasks import Point
from ..settings import samplers
from ..settings.assign import settable
from ..settings.registry import METHODS
from .asked import Asked, check_size
from .models import Models
from .search_asked import GROUP, MOST, SHARED, rewards_of, settings_of

PICTURES = 10_000  # of a batch
POINTS = 100  # of a grid
READ_S = 60  # seconds for reading all prompts
_RANGE = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*")


def checked(
    data: Mapping[str, Any], files: Collection[str], models: Models
) -> tuple[dict[str, Any], list[str]]:
    """Return the tables of a job without what the server decides itself, and a sentence on each such thing.

    `files` are the names of the prompt files that came with it. Raises `ValueError` in one sentence for other
    files and folders, for models that a visitor may not name, and for jobs that are too large.
    """
    found = _plain(data)
    notes = [*_model(found, models), *_output(found)]
    model = str(_table(found, "model").get("name", "shapes-sd"))
    _call(model, [], _table(found, "call"))
    methods = found.get("method", [])
    if isinstance(methods, list) and all(isinstance(entry, dict) for entry in methods):
        _call(model, methods, {})
    _prompts(_table(found, "prompts"), files)
    if "sampler" in found:
        found["sampler"] = _sampler(_table(found, "sampler"))
    _grid(_table(found, "grid"), model, found.get("sampler"), models)
    return found, notes


def rows_of(job: Job, points: Sequence[Point]) -> Iterator[tuple[Point, Row, int]]:
    """Yield point, row and seed of each picture of a job, in their order.

    Raises `ValueError` for a prompt that is too long, for arguments of a row that a visitor may not set, and
    for too many pictures.
    """
    count, ends = 0, time.monotonic() + READ_S
    if job.prompts.expand:  # long templates take long, so they are measured before they are parsed
        for row in replace(job, prompts=replace(job.prompts, expand=False)).rows():
            _call("template", [], {}, row.prompt)
    for point in points:
        for row in job.rows():
            if time.monotonic() > ends:
                raise MethodError(f"the prompts took more than {READ_S} s to read; hand in fewer.")
            try:
                _call(point.model.name, [], {**point.call, **row.call}, row.prompt)
            except ValueError as error:
                raise ValueError(f"{row.source or row.prompt[:60]}: {error}") from error
            for seed in job.seeds if row.seed is None else (row.seed,):
                count += 1
                if count > PICTURES:
                    raise MethodError(f"a batch has up to {PICTURES} pictures here; split the job.")
                yield point, row, seed


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the data; raises for what TOML has and no setting takes."""
    try:
        return json.loads(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError) as error:
        reason = "a date" if isinstance(error, TypeError) else "a number that is not finite"
        raise MethodError(f"the job holds {reason}, which no setting takes; remove it.") from error


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a table of a job; what is no table is refused where the job is read."""
    found = data.get(name, {})
    return found if isinstance(found, dict) else {}


def _model(data: dict[str, Any], models: Models) -> Iterator[str]:
    table = _table(data, "model")
    if "name" in table:
        models.resolve(str(table["name"]))
    for key in ("device", "dtype", "threads"):
        if table.pop(key, None) is not None:
            yield f"[model] {key} is decided by the server"


def _output(data: dict[str, Any]) -> Iterator[str]:
    if _table(data, "output").pop("folder", None) is not None:
        yield "[output] folder is decided by the server; the zip has all files"


def _call(
    model: str, methods: Sequence[Mapping[str, Any]], call: Mapping[str, Any], prompt: str = ""
) -> None:
    """Refuse methods and arguments that a visitor may not ask for; the sizes are those of a picture."""
    if not model:
        raise MethodError("[model] name is the name of a model, got an empty one; leave it out.")
    found = Asked.of({"prompt": prompt, "model": model, "methods": list(methods), "call": dict(call)})
    check_size(found.call)


def _prompts(table: dict[str, Any], files: Collection[str]) -> None:
    named = table.get("file", [])
    for name in named if isinstance(named, list) else [named]:
        if name not in files:
            have = f"; uploaded are {', '.join(files)}" if files else ""
            raise MethodError(
                f"the job reads {repr_of(name)}, which was not uploaded{have}; add the file, and "
                "name it without a folder."
            )
    if table.get("wildcards") is not None:
        raise MethodError(
            f"[prompts] wildcards is a folder, which a page cannot read, got {repr_of(table['wildcards'])}; "
            "write the choices out, as {red|blue}."
        )
    _few_seeds(table.get("seeds", 0), "[prompts] seeds")


def _few_seeds(seeds: Any, where: str) -> None:
    """Refuse a range of more seeds than a batch has pictures, before it is written out."""
    if isinstance(seeds, str) and (ends := _RANGE.fullmatch(seeds)):
        first, last = (int(text[:20]) for text in ends.groups())
        if last - first >= PICTURES:
            raise MethodError(f"{where} are up to {PICTURES} here, got {repr_of(seeds)}; take fewer.")


def _sampler(table: dict[str, Any], changed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Check a sampler as a search of the page, and give it a budget."""
    name = table.get("name")
    if not isinstance(name, str):
        return table  # refused where the job is read
    chain = samplers.parts(name)[1]
    values = {key: value for key, value in table.items() if key not in ("name", "rewards")}
    own = {key: value for key, value in values.items() if key not in SHARED}
    known = {key for part in chain for key in settable(part.cls)}
    settings_of(name, {p.label: {k: v for k, v in own.items() if k in settable(p.cls)} for p in chain})
    rewards_of(table.get("rewards") or {})
    if isinstance(budget := values.get("budget"), int) and budget > MOST:
        raise MethodError(f"[sampler] budget is up to {MOST} here, got {budget}; ask for less.")
    kept = {key: value for key, value in table.items() if key not in ("micro_batch", "keep_pictures")}
    if changed is None and "budget" in known:
        kept |= {"budget": values.get("budget", MOST), "micro_batch": GROUP}
    return kept


def _grid(axes: dict[str, Any], model: str, sampler: Any, models: Models) -> None:
    flat = list(_flat(axes))
    sizes = [len(values) for _, field, values in flat if isinstance(values, list)]
    if prod(sizes) > POINTS:
        raise MethodError(f"[grid] has up to {POINTS} points here, got {prod(sizes)}; take fewer values.")
    _few_seeds(axes.get("seeds", 0), "[grid] seeds")
    for owner, field, values in flat:
        for value in values if isinstance(values, list) else ():
            if owner == grid.MODEL and not field:
                models.resolve(str(value))
            elif owner == grid.CALL and field:
                _call(model, [], {field: value})
            elif owner in METHODS and field:
                _call(model, [{"name": owner, field: value}], {})
            elif owner == grid.SAMPLER and field in ("micro_batch", "keep_pictures"):
                raise MethodError(f"[grid] sampler.{field} is decided by the server; leave it out.")
            elif owner == grid.SAMPLER and isinstance(sampler, dict):
                _sampler({"name": sampler.get("name"), field: value}, {field: value})


def _flat(axes: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield owner, field and values of each axis, but for seeds."""
    for key, value in axes.items():
        if isinstance(value, dict):
            yield from ((key, field, values) for field, values in value.items())
        elif key != "seeds":
            owner, _, field = key.partition(".")
            yield owner, field, value


def safe_name(name: str, taken: Collection[str] = ()) -> str:
    """Return the name of an uploaded file as it is kept: letters, digits and `._-`, without a folder."""
    stem, suffix = Path(name).stem, Path(name).suffix
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:80] or "prompts"
    suffix = re.sub(r"[^A-Za-z0-9.]", "", suffix)[:10].lower()
    found, number = f"{stem}{suffix}", 1
    while found in taken:
        number += 1
        found = f"{stem}-{number}{suffix}"
    return found
