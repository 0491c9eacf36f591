"""Read prompts from CSV and TSV files: a heading, and a row for each prompt."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from .entries import KNOWN, PROMPTS, Bad, Entry, either, entry, names, slip
from .lines import lines, place


def table(path: Path, column: str | None = None, separator: str | None = None) -> Iterator[Entry]:
    """Yield a row for each row of a table. Cells may hold commas and line breaks in quotes.

    `column` names the one with prompts. Columns that are no settings become facts of the row, under their
    names in lower case. Raises `ValueError` for a table without a heading or a column of prompts, and for
    a column that is nearly a setting.
    """
    found = records(path, separator or ("\t" if path.suffix.lower() == ".tsv" else ","))
    heads = heading(path, found)
    _check(path, heads, column)
    for index, (source, cells) in enumerate(found):
        if isinstance(cells, Bad):
            yield cells
        elif len(cells) > len(heads) or (len(cells) < len(heads) and not _padded(cells, heads, column)):
            yield Bad(source, _count(cells, heads))
        else:
            yield entry(index, _named(heads, cells, column), source, loose=True)


def records(path: Path, separator: str) -> Iterator[tuple[str, list[str] | Bad]]:
    """Yield place and cells of each record that is not empty; its place is its first line."""
    current = [0, 0]  # the line that was read last, and the first line of the record
    wrong: list[Bad] = []

    def texts() -> Iterator[str]:
        for number, text in lines(path):
            current[0] = number
            if isinstance(text, Bad):
                wrong.append(text)
                text = "\n"
            yield text

    reader = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        current[1] = current[0] + 1
        source = place(path, current[1])
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield source, Bad(source, f"is no record of a table: {error}; quotes may be missing")
            continue
        finally:
            bad = wrong[:1]
            wrong.clear()
        if bad:
            yield source, bad[0]
        elif any(cell.strip() for cell in cells):
            yield source, cells


def heading(path: Path, found: Iterator[tuple[str, list[str] | Bad]]) -> list[str]:
    """Return the names of the columns; raises `ValueError` if there are none, or one comes twice."""
    source, cells = next(found, ("", Bad(path.name, "is empty; write a heading and a row for each prompt")))
    if isinstance(cells, Bad):
        raise ValueError(f"{cells.source} {cells.reason}")
    heads = [cell.strip() for cell in cells]
    lower = [head.lower() for head in heads]
    if twice := [head for head in dict.fromkeys(lower) if head and lower.count(head) > 1]:
        raise ValueError(f"{source} names a column twice, {twice[0]!r}; rename one")
    return heads


def _check(path: Path, heads: Sequence[str], column: str | None) -> None:
    source = place(path, 1)
    if column is not None:
        if column not in heads:
            raise ValueError(f"{source} has no column {column!r}; it has {names(heads)}")
    elif not {head.lower() for head in heads} & set(PROMPTS):
        raise ValueError(
            f"{source} has no column of prompts, named {either(PROMPTS)}; it has {names(heads)}, so say "
            "which one holds them"
        )
    for head in heads:
        if head.lower() not in KNOWN and head != column and (near := slip(head)):
            raise ValueError(f"{source} has a column {head!r}, which is no setting; nearest is {near!r}")


def _named(heads: Sequence[str], cells: Sequence[str], column: str | None) -> dict[str, str]:
    """Name the cells. If a column was chosen, other columns of prompts are facts."""
    pairs = [(head, cell) for head, cell in zip(heads, cells, strict=False) if head]
    if column is None:
        return dict(pairs)
    others = {head: cell for head, cell in pairs if head != column}
    kept = {f"{head} column" if head.lower() in PROMPTS else head: cell for head, cell in others.items()}
    return {"prompt": dict(pairs)[column], **kept}


def _padded(cells: Sequence[str], heads: Sequence[str], column: str | None) -> bool:
    """Return whether a short row still has its prompt, as some programs leave out empty last cells."""
    named = _named(heads, cells, None)
    return column in named or bool({name.lower() for name in named} & set(PROMPTS))


def _count(cells: Sequence[str], heads: Sequence[str]) -> str:
    hint = "put prompts with commas in quotes" if len(cells) > len(heads) else "its prompt is missing"
    return f"has {len(cells)} cells and the heading {len(heads)}; {hint}"
