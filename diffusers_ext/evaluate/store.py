"""Keep finished verdicts on disk, a JSON line each, so that an interrupted evaluation continues."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from ..errors import unwritable
from ..settings.fields import fit
from .score import Judged, plain_data

FILE = "items.jsonl"
LATER = ("configs", "device")  # keys of an identity that older folders lack; such folders stay usable
_TYPES = get_type_hints(Judged)
_NEEDED = tuple(f.name for f in fields(Judged) if f.default is MISSING)


class Store:
    """A store holds verdicts by (variant, prompt, seed) of one model, one set of weights and one call.

    The first line is the identity of the run. It is written with the first verdict, so a run that is refused
    earlier claims no folder. A folder of another identity raises `ValueError`, since figures of different
    weights must not mix. A line that is no verdict raises it too. A last line cut short by a crash is
    dropped. Two writers may have worked in one folder, so the last of several equal verdicts counts, and a
    second identity line is skipped.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self.identity = json.loads(json.dumps(identity))
        self.done: dict[tuple[str, str, int], Judged] = {}
        lines = self._lines() if self.path.exists() else []
        self._begun = bool(lines)
        if lines:
            self._check(lines[0])
        for number, line in enumerate(lines[1:], start=2):
            if line == lines[0]:
                continue
            try:
                variant, verdict = _verdict(line)
            except ValueError as error:
                raise ValueError(
                    f"line {number} of {str(self.path)!r} is no verdict: {error}; choose another --out"
                ) from error
            self.done[variant, verdict.prompt, verdict.seed] = verdict

    def add(self, variant: str, verdicts: Sequence[Judged]) -> None:
        """Append verdicts; they are on the disk when this returns."""
        lines = [{"variant": variant, **plain_data(j)} for j in verdicts]
        self._append(lines if self._begun else [self.identity, *lines])
        self._begun = True
        for j in verdicts:
            self.done[variant, j.prompt, j.seed] = j

    def get(self, variant: str, prompt: str, seed: int) -> Judged | None:
        """Return the verdict, or `None` if the picture has not been made."""
        return self.done.get((variant, prompt, seed))

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            # A file that was begun must still exist: without the first line, verdicts belong to no model.
            flags = os.O_WRONLY | os.O_APPEND | (0 if self._begun else os.O_CREAT)
            with os.fdopen(os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o666), "ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _lines(self) -> list[Any]:
        raw = self.path.read_bytes()
        complete = raw[: raw.rfind(b"\n") + 1]
        if len(complete) < len(raw):
            with self.path.open("r+b") as file:
                file.truncate(len(complete))
        lines = []
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"line {number} of {str(self.path)!r} is not JSON; delete the file to start over"
                ) from error
        return lines

    def _check(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise ValueError(
                f"line 1 of {str(self.path)!r} must tell the model and its call, got {_short(found)}; choose "
                "another --out"
            )
        for key, ours in self.identity.items():
            if key in LATER and key not in found:
                continue
            if found.get(key) != ours:
                raise ValueError(
                    f"{str(self.path)!r} holds results with different {key} ({_short(found.get(key))}, now "
                    f"{_short(ours)}); results must not mix, so choose another --out"
                )


def _verdict(line: Any) -> tuple[str, Judged]:
    """Return variant and verdict of a line; raises `ValueError` with what is wrong about it."""
    if not isinstance(line, dict):
        raise ValueError(f"it must be an object, got {_short(line)}")
    if "variant" not in line:
        raise ValueError("it has no 'variant'")
    return fit(line["variant"], str, "variant"), judged({k: v for k, v in line.items() if k != "variant"})


def judged(data: Mapping[str, Any]) -> Judged:
    """Read a verdict from JSON data; raises `ValueError` with what is wrong about it."""
    if missing := [key for key in _NEEDED if key not in data]:
        raise ValueError(f"it has no {missing[0]!r}")
    if unknown := [key for key in data if key not in _TYPES]:
        raise ValueError(f"it has an unknown {unknown[0]!r}")
    return Judged(**{key: fit(value, _TYPES[key], key) for key, value in data.items()})


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:12] + "..."
