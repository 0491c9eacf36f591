"""Keep what became of each task: lines of JSON, in a file for each process that writes.

A line is on the disk before the next task begins. Lines are never changed. One that was cut short by a crash
is skipped by every reader.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ..errors import unwritable
from ..outputs import claim
from ..outputs.files import slug, subfolder

FOLDER = "manifest"
DONE, FAILED = "done", "failed"
_KEYS = {  # what readers of lines need
    DONE: {"id", "file", "prompt", "seed", "point", "seconds", "size", "flags"},
    FAILED: {"id", "prompt", "seed", "reason"},
}
Line = dict[str, Any]
Each = Callable[[Line, bool], None]  # what is called with a line, and whether its task was finished before


class Writer:
    """A writer has a file of the folder to itself, the first that no living process holds.

    So the number of files is that of processes that once ran together, however often they were killed.
    """

    def __init__(self, folder: Path) -> None:
        home = subfolder(folder, FOLDER)
        for number in count():
            self.path = home / f"{slug(platform.node(), 60)}-{number:03d}.jsonl"
            file = claim.locked(self.path)
            if file is not None:
                break
        self._file = file
        if size := os.fstat(file.fileno()).st_size:
            file.seek(size - 1)
        if size and file.read(1) != b"\n":
            self._write(b"\n")  # the last writer was killed within a line

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is on the disk when this returns. Raises `OSError` in one sentence."""
        self._write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            if not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                raise FileNotFoundError
            while data:  # a full disk may take a part
                data = data[os.write(self._file.fileno(), data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Let others have the file."""
        self._file.close()


class Index:
    """Find the lines of all writers by task. Memory holds the places of lines, not their text."""

    def __init__(self, folder: Path) -> None:
        self._home = folder / FOLDER
        self._files: list[Path] = []
        self._read: dict[Path, int] = {}  # bytes of each file that were read
        self._done: dict[str, tuple[int, int]] = {}
        self._failed: set[str] = set()
        self.damaged = 0  # lines that are no JSON, or lack what a line has

    def refresh(self, each: Each = lambda line, again: None) -> None:
        """Read what was appended since the last time, and call `each` with every line of it."""
        for path in sorted(self._home.glob("*.jsonl")):
            start = self._read.get(path)
            if start is None:
                start = self._read[path] = 0
                self._files.append(path)
            if path.stat().st_size > start:
                self._lines(path, start, each)

    def _lines(self, path: Path, start: int, each: Each) -> None:
        number = self._files.index(path)
        with path.open("rb") as file:
            file.seek(start)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break  # it is being written
                place, start = start, start + len(raw)
                if not raw.strip():
                    continue
                try:
                    line = json.loads(raw)
                    if not _KEYS[line["status"]] <= line.keys():
                        raise KeyError("a line of another program")
                    again = line["id"] in self._done
                    self._note(line["id"], line["status"], (number, place))
                except (ValueError, TypeError, KeyError):
                    self.damaged += 1
                    continue
                each(line, again)
        self._read[path] = start

    def _note(self, task: str, status: str, place: tuple[int, int]) -> None:
        if status == DONE:
            self._done[task] = place
            self._failed.discard(task)
        else:
            self._failed.add(task)

    def done(self, task: str) -> bool:
        """Return whether a task was finished, whatever became of its file."""
        return task in self._done

    def failed(self, task: str) -> bool:
        """Return whether a task was tried after it was last finished, and failed."""
        return task in self._failed

    def line(self, task: str) -> Line:
        """Return the last line of a task that was finished."""
        number, place = self._done[task]
        with self._files[number].open("rb") as file:
            file.seek(place)
            return json.loads(file.readline())
