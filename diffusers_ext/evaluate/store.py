"""Finished verdicts on disk, a JSON line each, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .score import Judged

FILE = "items.jsonl"


class Store:
    """Verdicts by (variant, prompt, seed) of one model with one set of weights and call arguments.

    The first line is the identity of the run, written with the first verdict: a run that is refused before
    claims no folder. A folder that holds another one raises `ValueError`: figures of different weights must
    not mix. A last line cut short by a crash is dropped.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self.identity = json.loads(json.dumps(identity))
        self.done: dict[tuple[str, str, int], Judged] = {}
        lines = self._lines() if self.path.exists() else []
        self._begun = bool(lines)
        if lines:
            self._check(lines[0])
        for line in lines[1:]:
            key = line.pop("variant"), line["prompt"], line["seed"]
            self.done[key] = Judged(**line)

    def add(self, variant: str, judged: Sequence[Judged]) -> None:
        """Keeps verdicts; they are on the disk when this returns."""
        lines = [{"variant": variant, **asdict(j)} for j in judged]
        self._append(lines if self._begun else [self.identity, *lines])
        self._begun = True
        for j in judged:
            self.done[variant, j.prompt, j.seed] = j

    def get(self, variant: str, prompt: str, seed: int) -> Judged | None:
        """The verdict, or `None` where the picture has not been made."""
        return self.done.get((variant, prompt, seed))

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[dict[str, Any]]:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"line {number} of {str(self.path)!r} is not JSON; delete the file to start over"
                ) from error
        return lines

    def _check(self, found: Mapping[str, Any]) -> None:
        for key, ours in self.identity.items():
            if found.get(key) != ours:
                raise ValueError(
                    f"{str(self.path)!r} holds results with different {key} ({_short(found.get(key))}, now "
                    f"{_short(ours)}); results must not mix, so choose another --out"
                )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:12] + "..."
