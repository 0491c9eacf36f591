"""Keep on disk what a bench has measured, which cases failed, and which still wait.

The file is written after each case. A failed case is recorded with its error, and the next one begins. A stop
loses nothing that was written.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from diffusers_ext.outputs.files import replacing

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]  # has `ok`, or a `check` in words, if it was verified
CHECK = "error: a check failed, see the table; the times beside it mean nothing."


class Ledger:
    """A ledger is the record of one run.

    It has `rows`, a sentence for each case in `failed`, and the names of cases in `waiting`. `facts` are
    further keys of the file. Nothing is written before the first case has ended.
    """

    def __init__(self, path: Path, device: str, cases: Iterable[str], **facts: Any) -> None:
        self.path = path
        self.device = device
        self.facts = facts
        self.rows: list[Row] = []
        self.failed: dict[str, str] = {}
        self.waiting = list(cases)

    def add(self, row: Row) -> None:
        """Keep a row and write the file."""
        self.rows.append(row)
        self.save()

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Run one case: an exception inside becomes a line of the table and an entry of `failed`."""
        try:
            yield
        except Exception as error:  # any error: the later cases are still worth their time
            self.failed[name] = sentence(error)
            print(f"{name:60} FAILED: {self.failed[name]}", flush=True)
        if torch.cuda.is_available() and name in self.failed:
            with suppress(RuntimeError):  # if the GPU itself is lost, the next case will say so
                torch.cuda.empty_cache()
        if name in self.waiting:
            self.waiting.remove(name)
        self.save()

    def save(self) -> None:
        """Write the current record; a stop never leaves half of a file."""
        record = {
            "torch": torch.__version__,
            "device": self.device,
            **self.facts,
            "rows": self.rows,
            "failed": self.failed,
            "waiting": self.waiting,
        }
        with replacing(self.path, parents=True) as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())

    def finish(self) -> list[Row]:
        """Return the rows; raises `SystemExit` with a sentence if a case failed or a row is not good."""
        if self.failed:
            names = list(self.failed)
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise SystemExit(f"error: {len(names)} of the cases failed ({some}); see the table.")
        if not all(map(good, self.rows)):
            raise SystemExit(CHECK)
        return self.rows


def good(row: Row) -> bool:
    """Return whether a row passed its verification, or needs none."""
    return row.get("ok", True) and row.get("check") != "FAILED"


def results_file(folder: Path, bench: str, machine: str) -> Path:
    """Return the file in which a bench keeps its results for a machine."""
    return folder / f"{bench}-{machine.replace(' ', '-').lower()}.json"


def committed(name: str) -> dict[str, Any]:
    """Return the content of a committed results file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def sentence(error: BaseException) -> str:
    """Return the kind of an error and the line of its text that says what is wrong."""
    if isinstance(error, torch.OutOfMemoryError):
        asked = re.search(r"Tried to allocate (\S+ \S+?)\.", str(error))
        return (
            f"out of memory, {asked[1] if asked else 'more'} did not fit; use a larger GPU, or free this one"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # Triton's compiler begins with a place and the code there, and ends with the reason.
    line = lines[-1] if re.fullmatch(r"at \d+:\d+:?", lines[0]) else lines[0]
    return f"{type(error).__name__}: {line}"
