"""Read the prompts of public benchmarks from the files that their authors publish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..rows import Row
from .entries import Bad, Entry, RowError, check_prompt
from .lines import lines, place
from .objects import json_lines, json_list
from .tables import heading, records, table
from .text import text

STYLES = ("anime", "concept-art", "paintings", "photo")  # the files of HPDv2, in the order of its evaluator
_SNIFFED = 100  # records of a Pick-a-Pic file that are looked at


def geneval(path: Path) -> Iterator[Entry]:
    """Read `evaluation_metadata.jsonl` of GenEval. `meta["geneval"]` keeps each object as it is."""
    return json_lines(path, _geneval)


def compbench(path: Path) -> Iterator[Entry]:
    """Read `<category>_val.txt` of T2I-CompBench, or a folder of them. `meta` has category and number."""
    files = _files(path, "*_val.txt", "T2I-CompBench")
    return _parts(files, text, "category", lambda file: file.stem.removesuffix("_val"))


def hpdv2(path: Path) -> Iterator[Entry]:
    """Read `<style>.json` of HPDv2, or a folder of them. `meta` has style and number.

    Elements are prompts, or objects that have one.
    """
    files = [f for style in STYLES if (f := path / f"{style}.json").is_file()] if path.is_dir() else [path]
    if not files:
        raise ValueError(
            f"{str(path)!r} has no file of HPDv2; it publishes {', '.join(f'{s}.json' for s in STYLES)}"
        )
    return _parts(files, lambda file: json_list(file, _of_either), "style", lambda file: file.stem)


def drawbench(path: Path) -> Iterator[Entry]:
    """Read the CSV file of DrawBench. `meta` has category and number."""
    for found in table(path):
        if isinstance(found, Row):
            if not (category := str(found.meta.get("category", "")).strip()):
                yield Bad(found.source, "has no category, which DrawBench gives each prompt")
                continue
            found = replace(found, meta={**found.meta, "category": category, "number": found.index})
        yield found


def partiprompts(path: Path) -> Iterator[Entry]:
    """Read `PartiPrompts.tsv`. `meta` has category, challenge and note."""
    return table(path, separator="\t")


def pick_a_pic(path: Path) -> Iterator[Entry]:
    """Read captions of Pick-a-Pic, or the CSV files that go by `id,caption,...`.

    Some of these put no quotes around captions with commas. If the first records do not have as many cells as
    the heading, all after the first comma is the caption.
    """
    found = records(path, ",")
    heads = heading(path, found)
    if "caption" not in heads:
        raise ValueError(f"{place(path, 1)} has no column 'caption', which files of Pick-a-Pic have")
    if all(not isinstance(cells, Bad) and len(cells) == len(heads) for _, cells in islice(found, _SNIFFED)):
        return table(path, "caption")
    return _unquoted(path)


def _unquoted(path: Path) -> Iterator[Entry]:
    for number, line in lines(path):
        source = place(path, number)
        if isinstance(line, Bad):
            yield line
        elif number > 1 and line.strip():
            name, comma, caption = line.rstrip("\r\n").partition(",")
            if comma and caption.strip():
                yield Row(number - 2, caption.strip(), meta={"id": name}, source=source)
            else:
                yield Bad(source, "has no caption after the first comma")


def _geneval(index: int, value: Any, source: str) -> Entry:
    try:
        facts = _object(value)
        return Row(
            index, check_prompt(facts["prompt"]), meta={"geneval": value, "tag": facts["tag"]}, source=source
        )
    except RowError as error:
        return Bad(source, str(error))


def _object(value: Any) -> Mapping[str, Any]:
    """Check what the evaluator of GenEval reads of an object; raises `RowError` if it would fail."""
    if not isinstance(value, Mapping):
        raise RowError(f"is no object, got {value!r}")
    if missing := [key for key in ("prompt", "tag", "include") if key not in value]:
        raise RowError(f"has no {missing[0]!r}, which GenEval's metadata has")
    if not isinstance(value["tag"], str):
        raise RowError(f"has a 'tag' that is no text, got {value['tag']!r}")
    for key in ("include", "exclude"):
        clauses = value.get(key, [])
        if not isinstance(clauses, list) or not all(map(_is_clause, clauses)):
            raise RowError(f"has an {key!r} that is no list of objects with 'class' and 'count'")
    if not value["include"]:
        raise RowError("has an empty 'include', so that every picture would count as right")
    return value


def _is_clause(clause: Any) -> bool:
    return (
        isinstance(clause, Mapping)
        and isinstance(clause.get("class"), str)
        and type(clause.get("count")) is int
    )


def _of_either(index: int, value: Any, source: str) -> Entry:
    try:
        prompt = value.get("prompt") if isinstance(value, Mapping) else value
        return Row(index, check_prompt(prompt), source=source)
    except RowError as error:
        return Bad(source, str(error))


def _files(path: Path, pattern: str, suite: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    if not (found := sorted(path.glob(pattern))):
        raise ValueError(
            f"{str(path)!r} has no file {pattern} of {suite}; name a file, or the folder of them"
        )
    return found


def _parts(files: list[Path], reader: Any, fact: str, named: Any) -> Iterator[Entry]:
    """Read several files as one source. `number` counts in each file, and the index goes on."""
    start = 0
    for file in files:
        last = -1
        for found in reader(file):
            if isinstance(found, Row):
                last = found.index
                meta = {fact: named(file), "number": last, **found.meta}
                found = replace(found, index=start + last, meta=meta)
            yield found
        start += last + 1
