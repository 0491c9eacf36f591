"""Give every task one worker at a time, and remember what became of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import MethodError
from ..outputs import claim
from ..outputs.files import remove_partials, subfolder
from .layouts import Layout, prepare
from .manifest import FOLDER, Each, Index, Writer
from .tasks import Task

CLAIMS = ".claims"


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A task that this process alone may make, until it ends."""

    task: Task
    path: Path
    file: BinaryIO


class Keeper:
    """Hold claims on tasks of the output folder `out`, and write the manifest.

    A claim is a lock of the operating system on a small file. It ends with its process, so the task of a
    killed worker is free again. `each` is called with every line that was written before.
    """

    def __init__(self, out: Path, each: Each = lambda line, again: None) -> None:
        self.out = out
        self._claims = subfolder(out, FOLDER, CLAIMS)
        self.index = Index(out)
        self.index.refresh(each)
        self.writer = Writer(out)

    def finished(self, task: Task) -> bool:
        """Return whether the manifest has the task, and its file is what the manifest says."""
        return self.index.done(task.id) and intact(self.out, self.index.line(task.id))

    def take(self, task: Task, own: bool, look: Callable[[], None]) -> Held | None:
        """Claim a task; `None` if another process holds it.

        `look` refreshes the index. It is called with the claim held: its last holder may have written file
        and line since the last look.

        If the name of the file does not have all settings in it, `own` is false. Then a file that is there,
        and is not of this task, raises `MethodError`: it would be lost.
        """
        path = self._claims / hashlib.sha256(str(task.path).encode()).hexdigest()[:16]
        file = claim.locked(path)
        if file is None:
            return None
        file.seek(0)
        left = file.read().decode(errors="replace")  # by a process that was killed while it made this file
        look()
        place = self.out / task.path
        if left:
            remove_partials(place)
        if not own and left != task.id and place.exists() and not self.index.done(task.id):
            claim.release(path, file)
            raise MethodError(
                f"{str(place)!r} is there and is not the picture of prompt {task.row.prompt[:60]!r}, seed "
                f"{task.seed}, with these settings; choose another folder, or remove what is there"
            )
        if left != task.id:
            file.truncate(0)
            file.write(task.id.encode())
            file.flush()
        return Held(task, path, file)

    def give_back(self, held: Held) -> None:
        """End a claim, after the line of the task was written or without one."""
        claim.release(held.path, held.file)

    def place(self, task: Task, layout: Layout | None) -> Path:
        """Return the file of a task, with its folder made, and what the layout wants beside it."""
        if layout is not None:
            home = subfolder(self.out, *filter(None, [task.point.folder]))
            prepare(home, layout, task.row, task.path.suffix)
        return subfolder(self.out, *task.path.parent.parts) / task.path.name

    def close(self) -> None:
        """Let others have the file of the manifest."""
        self.writer.close()


def stamp(path: Path) -> dict[str, Any]:
    """Describe a file, so that damage is noticed."""
    found = path.stat()
    return {"bytes": found.st_size, "modified": found.st_mtime_ns, "sha256": _sha256(path)}


def intact(out: Path, line: Mapping[str, Any]) -> bool:
    """Return whether the file of a line is on the disk as it was written.

    A file of the same size that was not touched since is not read.
    """
    path = out / line["file"]
    with suppress(OSError, KeyError):
        found = path.stat()
        if found.st_size != line["bytes"]:
            return False
        return found.st_mtime_ns == line["modified"] or _sha256(path) == line["sha256"]
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
