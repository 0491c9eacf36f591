"""Give an output folder one writer, by a lock that ends with its process."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import unwritable
from .files import remove_leftovers

FILE = ".in-use.json"  # names the writer; it exists while the command runs, and stays after kill -9


class FolderInUseError(ValueError):
    """Another command is writing into the folder."""


@contextmanager
def claim(folder: Path, command: str) -> Iterator[None]:
    """Keep other processes from claiming `folder` while the context is open.

    The operating system locks the file `FILE`, which names the holder. The lock ends with its process, so the
    file of a killed process is taken over. Raises `FolderInUseError` with command, process, machine and time
    of the holder.
    """
    path = folder / FILE
    file = locked(path)
    if file is None:
        who = _who(path)
        raise FolderInUseError(
            f"{str(folder)!r} is being written to by {who}; wait until that ends, stop it, or choose another "
            "--out"
        )
    try:
        _sign(file, command)
        remove_leftovers(folder)
        yield
    finally:
        release(path, file)


def locked(path: Path) -> BinaryIO | None:
    """Open and lock the file; `None` if another process holds it."""
    while True:
        try:
            file = path.open("a+b")
        except OSError as error:
            raise unwritable(path, error) from error
        if not _lock(file):
            file.close()
            return None
        # Its last holder may have removed the file between our opening and locking it.
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def release(path: Path, file: BinaryIO) -> None:
    """Remove the file while it is locked, so that nobody locks a file that is about to be removed."""
    with suppress(OSError):  # the folder may be gone; Windows removes no open file
        path.unlink(missing_ok=True)
    file.close()
    if os.name == "nt":
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _sign(file: BinaryIO, command: str) -> None:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    facts = {"command": command, "pid": os.getpid(), "host": platform.node(), "since": now}
    with suppress(OSError):  # the disk is full; the lock holds without a name in it
        file.truncate(0)
        file.write(json.dumps(facts).encode() + b"\n")
        file.flush()


def _who(path: Path) -> str:
    """Describe the holder in words."""
    facts: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        facts = dict(json.loads(path.read_text()))
    if not {"command", "pid", "host", "since"} <= facts.keys():
        return "another command"
    return f"'{facts['command']}' (process {facts['pid']} on {facts['host']}, since {facts['since']})"


try:
    import fcntl

    def _lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks cannot keep two writers apart
            return True
        return True

except ImportError:  # Windows
    import msvcrt

    def _lock(file: BinaryIO) -> bool:
        try:
            file.seek(1 << 30)  # behind the text, so that others may read it
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
