"""What a bench has measured, which cases failed and which still wait, on disk after each of them.

One failing case is a line with its error, and the next one begins; a stop leaves all that was there.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

CHECK = "error: a check failed, see the table; the times beside it mean nothing."


class Ledger:
    """The record of one run: `rows` are dataclasses, `failed` has a sentence by case, `waiting` names cases.

    `facts` are further keys of the file. Nothing is written before the first case has ended.
    """

    def __init__(self, path: Path, device: str, cases: Iterable[str], **facts: Any) -> None:
        self.path = path
        self.device = device
        self.facts = facts
        self.rows: list[Any] = []
        self.failed: dict[str, str] = {}
        self.waiting = list(cases)

    def add(self, row: Any) -> None:
        """Keeps a row and writes the file."""
        self.rows.append(row)
        self.save()

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Runs one case: an exception inside becomes a line of the table and an entry of `failed`."""
        try:
            yield
        except Exception as error:  # whatever it is, the cases behind it are worth their time
            self.failed[name] = sentence(error)
            print(f"{name:60} FAILED: {self.failed[name]}", flush=True)
        if torch.cuda.is_available() and name in self.failed:
            _free()
        if name in self.waiting:
            self.waiting.remove(name)
        self.save()

    def save(self) -> None:
        """Writes the record so far as a whole file: a stop never leaves half of one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "torch": torch.__version__,
            "device": self.device,
            **self.facts,
            "rows": [asdict(row) for row in self.rows],
            "failed": self.failed,
            "waiting": self.waiting,
        }
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(self.path)

    def finish(self, good: Callable[[Any], bool] = lambda row: row.ok) -> list[Any]:
        """The rows; raises `SystemExit` with a sentence where a case failed or a row is not good."""
        if self.failed:
            names = list(self.failed)
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise SystemExit(f"error: {len(names)} of the cases failed ({some}); see the table.")
        if not all(map(good, self.rows)):
            raise SystemExit(CHECK)
        return self.rows


def sentence(error: BaseException) -> str:
    """The kind of an error and the line of its text that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # Triton's compiler begins with a place and the code there, and ends with the reason.
    line = lines[-1] if re.fullmatch(r"at \d+:\d+:?", lines[0]) else lines[0]
    return f"{type(error).__name__}: {line}"


def _free() -> None:
    """Gives memory of a failed case back; where the GPU itself is lost, the next case will say so."""
    with suppress(RuntimeError):
        torch.cuda.empty_cache()
