"""Run timed benches: read options, run cases, write each row to the disk and print it.

A bench passes its cases by name. Each is a function that measures, verifies what it has timed, and yields
rows. Rows of an earlier run are kept if the bench names the sources that they depend on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from string import Formatter
from typing import Any, NoReturn

import torch

from .ledger import RESULTS, Ledger, Row, good, results_file
from .timing.stopwatch import machine

Cases = Mapping[str, Callable[[], Iterable[Row]]]
Name = Callable[[Row], str]


class Latest:
    """Build something by its key and keep it until another key is asked for.

    What was built before is freed first, so that two large models are never in memory together.
    """

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.build = build
        self.kept: dict[Any, Any] = {}

    def __call__(self, key: Any) -> Any:
        """Return what was built for a key."""
        if key not in self.kept:
            self.kept.clear()
            self.kept[key] = self.build(key)
        return self.kept[key]


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one sentence, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the options.\n")


def parser_of(doc: str | None, out: Path = RESULTS) -> argparse.ArgumentParser:
    """Return a parser with `--out` that shows the docstring of a bench as it is."""
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out, help="folder for the results as JSON")
    return parser


def suite_parser(doc: str | None, *, n: int, batch: int) -> argparse.ArgumentParser:
    """Return a parser with `--n`, `--seed`, `--batch` and `--out`, for studies on the prompts of a suite."""
    parser = parser_of(doc)
    parser.add_argument("--n", type=int, default=n, help="prompts per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=batch)
    return parser


def options(doc: str | None, device: str | None = None, *, keeps: bool = False) -> argparse.ArgumentParser:
    """Return a parser with `--device`, `--only` and `--out`, and `--restart` for a bench that keeps rows.

    The device is the GPU if there is one, unless another is usual.
    """
    parser = parser_of(doc)
    usual = device or ("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", default=usual, help="cuda or cpu")
    parser.add_argument("--only", default="", help="part of the names of the cases to run")
    if keeps:
        parser.add_argument("--restart", action="store_true", help="measure again what was measured already")
    return parser


def run(
    bench: str,
    cases: Cases,
    args: argparse.Namespace,
    line: str,
    *,
    derive: Callable[[Row], Row] = dict,
    path: Path | None = None,
    sources: str | None = None,
    name: Name = lambda row: row["case"],
    finish: Callable[[Ledger], None] = lambda ledger: None,
    **facts: Any,
) -> list[Row]:
    """Run the cases that `args.only` asks for, and return all rows.

    The file of `bench` is written after every row. `line` is the format of a printed row, with its fields and
    those that `derive` adds. Good rows with the same `sources`, found by their `name`, are not measured again
    unless `args.restart` is set. `args.minutes` ends the run early. `finish` adds to the facts of the file.
    Raises `SystemExit` with a sentence if a case failed or a row is not good.
    """
    where = machine(args.device)
    wanted = {label: case for label, case in cases.items() if args.only in label}
    if not wanted:
        raise SystemExit(f"error: no case for {args.device} has {args.only!r} in its name.")
    path = path or results_file(args.out, bench, where)
    done = {} if sources is None or args.restart else kept(path, sources, name)
    ledger = Ledger(path, where, [label for label in wanted if label not in done], **facts)
    ledger.rows = list(done.values())
    minutes, began = getattr(args, "minutes", None), time.monotonic()
    table = Table(line, derive)
    for label, case in wanted.items():
        if label in done:
            table.add(done[label])
        elif minutes is None or time.monotonic() - began < 60 * minutes:
            with ledger.case(label):
                for row in case():
                    ledger.add(row)
                    table.add(row)
    if ledger.waiting:
        print(f"Cases left after {minutes} minutes: {len(ledger.waiting)}; run again to go on.")
    finish(ledger)
    ledger.save()
    return ledger.finish()


def kept(path: Path, sources: str, name: Name) -> dict[str, Row]:
    """Return good rows of an earlier run by name, if sources and torch still are the same."""
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    rows = [row for row in record["rows"] if row["sources"] == sources and good(row)]
    return {name(row): row for row in rows if record["torch"] == torch.__version__}


class Table:
    """Print rows on the terminal as they come in, with headings first and each verification at the end."""

    def __init__(self, line: str, derive: Callable[[Row], Row]) -> None:
        self.line, self.derive, self.begun = line, derive, False

    def add(self, row: Row) -> None:
        """Print a row."""
        cells = [part for part in Formatter().parse(self.line) if part[1]]
        texts = [format((row | self.derive(row))[name], spec) for _, name, spec, _ in cells]
        heads = [name.replace("_", " ") for _, name, *_ in cells]
        if not self.begun:
            print("  ".join(f"{head:>{len(text)}}" for head, text in zip(heads, texts, strict=True)))
            self.begun = True
        outcome = row.get("check") or ("ok" if good(row) else "FAILED")
        print("  ".join(f"{t:>{len(h)}}" for h, t in zip(heads, texts, strict=True)), outcome, flush=True)
