"""Read the prompts of a job from files: text, JSON, tables, pictures, and the suites of benchmarks.

Each prompt is a `Row`. Files are read row by row, so they may be long. `FORMATS` names the formats.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...outputs.record import PICTURES
from ..rows import Row
from . import suites
from .entries import Entry, RowError, check_prompt
from .ids import Ids
from .objects import json_lines, json_list
from .pictures import pictures
from .tables import table
from .text import text
from .wildcards import expand as expand


@dataclass(frozen=True, slots=True)
class Format:
    """A format reads a file. `names` are patterns of the file names that it is taken for by itself."""

    read: Callable[[Path], Iterator[Entry]]
    names: tuple[str, ...] = ()


_MOST = 380  # characters of an error
# The first format whose pattern fits a name is taken.
FORMATS = MappingProxyType(
    {
        "geneval": Format(suites.geneval, ("evaluation_metadata.jsonl",)),
        "partiprompts": Format(suites.partiprompts, ("partiprompts.tsv",)),
        "t2i-compbench": Format(suites.compbench, ("*_val.txt",)),
        "hpdv2": Format(suites.hpdv2, tuple(f"{style}.json" for style in suites.STYLES)),
        "drawbench": Format(suites.drawbench, ("*drawbench*.csv",)),
        "pick-a-pic": Format(suites.pick_a_pic, ("hpd_prompt.csv", "pickscore.csv")),
        "text": Format(text, ("*.txt",)),
        "jsonl": Format(json_lines, ("*.jsonl", "*.ndjson")),
        "json": Format(json_list, ("*.json",)),
        "table": Format(table, ("*.csv", "*.tsv")),
        "pictures": Format(pictures, ("*.png", "*.jpg", "*.jpeg", "*.webp")),
    }
)


def texts(prompts: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each prompt of a list; raises `ValueError` for what is no text."""
    for index, prompt in enumerate(prompts):
        try:
            yield Row(index, check_prompt(prompt), source=f"prompt {index + 1}")
        except RowError as error:
            raise ValueError(f"prompt {index + 1} {error}") from error


def read(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    column: str | None = None,
    skip_bad: bool = False,
) -> Iterator[Row]:
    """Read the rows of a file, or of a folder for formats that have several files.

    `format` is a name of `FORMATS`; without it the name of the file decides. `column` names the column of
    prompts in a table. Rows keep their index whatever is skipped, so their pictures keep their seeds.

    Raises `ValueError` with file and line for the first row that is wrong, and for an id that comes twice.
    With `skip_bad` such rows are left out, and a warning at the end says how many. Raises `ValueError` also
    for a file without rows, and `OSError` for one that cannot be read.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"there is no file of prompts {str(file)!r}; check the path")
    reader = _format(file, format).read
    if column is not None:
        if reader is not table:
            raise ValueError(f"a column is chosen in tables, and {file.name!r} is none; leave the column out")
        return _rows(file, table(file, column), skip_bad)
    return _rows(file, reader(file), skip_bad)


def _format(file: Path, name: str | None) -> Format:
    if name is not None:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r} of prompts; the formats are {', '.join(FORMATS)}")
        return FORMATS[name]
    for known in FORMATS.values():
        if any(fnmatch(file.name.lower(), pattern) for pattern in known.names):
            return known
    if file.is_dir() and any(f.suffix.lower() in PICTURES for f in file.iterdir()):
        return FORMATS["pictures"]
    kind = "folder" if file.is_dir() else "ending"
    raise ValueError(
        f"the {kind} of {str(file)!r} does not say how prompts are written in it; name a format: "
        f"{', '.join(FORMATS)}"
    )


def _rows(file: Path, entries: Iterator[Entry], skip_bad: bool) -> Iterator[Row]:
    ids, good, bad = Ids(), 0, 0
    first = ""
    for found in entries:
        if isinstance(found, Row):
            found = ids.checked(found)
        if isinstance(found, Row):
            good += 1
            yield found
            continue
        sentence = _short(f"{found.source} {found.reason}")
        if not skip_bad:
            raise ValueError(sentence)
        first, bad = first or sentence, bad + 1
    if not good:
        why = f"all {bad} rows were skipped; the first: {first}" if bad else "write one or more"
        raise ValueError(f"{str(file)!r} has no prompts; {why}")
    if bad:
        warnings.warn(
            f"diffusers_ext: {bad} of {good + bad} rows of {file.name} were skipped; the first: {first}",
            stacklevel=2,
        )


def _short(sentence: str) -> str:
    """Cut the middle out of a sentence that holds a long value."""
    return sentence if len(sentence) <= _MOST else f"{sentence[: _MOST - 103]}...{sentence[-100:]}"


def overridden(rows: Iterable[Row], call: Mapping[str, Any], seeds: bool = True) -> Iterator[Row]:
    """Yield rows with the arguments `call` in place of their own.

    Without `seeds` they lose their own seeds, so that those of the job are used. So pictures can be made
    again with other settings.
    """
    for row in rows:
        yield replace(row, call={**row.call, **call}, seed=row.seed if seeds else None)
