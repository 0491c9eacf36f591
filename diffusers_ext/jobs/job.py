"""Read a job file: what to draw, with which model, methods and sampler, and where to put it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..sampling.call import seed_of
from ..settings import methods
from . import grid, prompts, tables
from .layouts import LAYOUTS, Layout
from .rows import Row
from .sampler import Sampler

TABLES = ("model", "call", "method", "sampler", "prompts", "grid", "output")
_RANGE = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*")


@dataclass(frozen=True, eq=False)
class Job:
    """A job is a file of TOML, checked as much as it can be without its model.

    `methods` and `sampler` hold names with settings. `out` is the output folder.
    """

    path: Path
    model: tables.ModelTable
    call: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    sampler: Sampler | None
    prompts: tables.PromptsTable
    seeds: tuple[int, ...]
    grid: tuple[grid.Axis, ...]
    output: tables.OutputTable
    out: Path
    layout: Layout | None
    mark: str

    @classmethod
    def read(cls, path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Job:
        """Read a file; `out` replaces its output folder.

        Raises `ValueError` with file, table and key for anything that is not understood, and `OSError` for a
        file that cannot be read.
        """
        path = Path(path).expanduser()
        return cls.of(toml(path), path, out)

    @classmethod
    def of(cls, data: Mapping[str, Any], path: Path, out: str | os.PathLike[str] | None = None) -> Job:
        """Build a job of plain data. Relative paths in it are relative to the folder of `path`.

        Raises `ValueError` as `read` does.
        """
        try:
            return cls(path=path, **_read(data, path, out))
        except ValueError as error:  # some sentences come from where no file is known
            raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from error

    def rows(self) -> Iterator[Row]:
        """Read the prompts one by one, in their order; raises `ValueError` with file and line."""
        table, home = self.prompts, self.path.parent
        files = [table.file] if isinstance(table.file, str) else table.file
        options = {"format": table.format, "column": table.column, "skip_bad": table.skip_bad}
        sources = [
            prompts.texts(table.texts),
            *(prompts.read(home / Path(f).expanduser(), **options) for f in files),
        ]
        rows: Iterator[Row] = itertools.chain.from_iterable(sources)
        if bool(table.texts) + len(files) > 1:
            rows = (replace(row, index=number) for number, row in enumerate(rows))
        if table.override:
            given = table.seeds != (0,) or self.seeds != (0,)  # a list is never equal to the default
            rows = prompts.overridden(rows, self.call, seeds=not given)
        if table.expand:
            folder = None if table.wildcards is None else home / Path(table.wildcards).expanduser()
            rows = prompts.expand(rows, wildcards=folder, seed=table.wildcard_seed)
        return itertools.islice(rows, table.limit)


def seeds_of(value: int | str | Sequence[int], where: str) -> tuple[int, ...]:
    """Read seeds: one, a list, or a range as text, with both ends."""
    if isinstance(value, str) and (found := _RANGE.fullmatch(value)):
        first, last = map(seed_of, found.groups())
        if last < first:
            raise ValueError(f"{where} counts up, got {value!r}; write '{last}-{first}'")
        return tuple(range(first, last + 1))
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        seeds = tuple(seed_of(v) for v in values if not isinstance(v, (bool, float)) or seed_of(repr(v)))
    except ValueError as error:
        raise ValueError(
            f"{where} takes whole numbers from 0 to 2**63 - 1, got {value!r}; write 7, [0, 1] or '0-9'"
        ) from error
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{where} needs seeds that are not the same, got {value!r}; write 7, [0, 1] or '0-9'"
        )
    return seeds


def _read(data: Mapping[str, Any], path: Path, out: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return the fields of a job but its path."""
    for key in data:
        if key not in TABLES:
            raise ValueError(tables.unknown(key, TABLES, str(path), "table"))
    model = tables.read(tables.ModelTable, data.get("model", {}), f"{path}: [model]")
    asked = tables.read(tables.PromptsTable, data.get("prompts", {}), f"{path}: [prompts]")
    output = tables.read(tables.OutputTable, data.get("output", {}), f"{path}: [output]")
    call, axes, seeds = data.get("call", {}), data.get("grid", {}), asked.seeds
    if not isinstance(call, Mapping):
        raise ValueError(f"[call] must be a table of keys, got {call!r}; write [call] above them")
    if isinstance(axes, Mapping) and "seeds" in axes:
        if "seeds" in data.get("prompts", {}):
            raise ValueError("seeds come once, got [prompts] seeds and [grid] seeds; remove one")
        axes, seeds = {k: v for k, v in axes.items() if k != "seeds"}, axes["seeds"]
    if not asked.texts and not asked.file:
        raise ValueError("[prompts] needs texts or file, got neither; add texts = ['a red circle']")
    sampler = Sampler.read(data["sampler"], f"{path}: [sampler]") if "sampler" in data else None
    found = _methods(data.get("method", []), f"{path}: [[method]]")
    folder = Path(output.folder or f"out/{path.stem}").expanduser()
    return {
        "model": model,
        "call": call,
        "methods": found,
        "sampler": sampler,
        "prompts": asked,
        "seeds": seeds_of(seeds, f"{path}: [prompts] seeds"),
        "grid": grid.axes(axes, found, sampler, f"{path}: [grid]"),
        "output": output,
        "layout": _layout(output, f"{path}: [output]"),
        "out": Path(out).expanduser() if out else path.parent / folder,
        "mark": hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()[:8],
    }


def toml(path: Path) -> dict[str, Any]:
    """Read the tables of a file.

    Raises `ValueError` if it is not TOML, and `OSError` if it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise OSError(f"cannot read the job file {str(path)!r} ({error.strerror}); check its path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not TOML: {reason}; compare it with docs/batches.md") from error


def _layout(output: tables.OutputTable, where: str) -> Layout | None:
    if output.layout is None:
        return None
    if output.name is not None:
        raise ValueError(f"{where} takes layout or name, got both; a layout names the files itself")
    if output.layout not in LAYOUTS:
        raise ValueError(tables.unknown(output.layout, LAYOUTS, where, "layout"))
    return LAYOUTS[output.layout]


def _methods(entries: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        raise ValueError(f"{where} is a list of tables, got {entries!r}; write [[method]] above each")
    for entry in entries:
        if "name" not in entry:
            raise ValueError(
                f"{where} needs a name, got {', '.join(entry) or 'nothing'}; add name = 'softpag'"
            )
    methods.once([str(entry["name"]) for entry in entries])
    return {
        str(e["name"]): methods.checked(str(e["name"]), {k: v for k, v in e.items() if k != "name"}, where)
        for e in entries
    }
