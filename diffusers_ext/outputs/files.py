"""Write files so that a reader finds the old content or the new one, never a part of it."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mimetypes import guess_type
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import unwritable

PARTIAL = ".partial"  # ending of temporary files
LEFT = 3600  # seconds after which no process still writes one


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Create the folder `path` and prove that it can be written to, before any work is done.

    Raises `OSError` with one sentence if it cannot. Raises `ValueError` for an empty name, and for the name
    of a picture or video unless a folder of that name exists.
    """
    if not os.fspath(path).strip():
        raise ValueError(f"--out takes the name of a folder, got {path!r}; write . for the current one")
    folder = Path(path).expanduser()
    if is_media(folder):
        raise ValueError(
            f"--out names a folder here, got that of a file, {str(path)!r}; leave the ending out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"cannot write to the output folder {str(folder)!r} ({reason}); choose another with --out"
        ) from error
    return folder


def is_media(path: Path) -> bool:
    """Check whether a name ends like a picture or a video file.

    A name such as `runs-0.5` does not. A folder that exists may have any name.
    """
    return (guess_type(path.name)[0] or "").split("/")[0] in ("image", "video") and not path.is_dir()


def subfolder(base: Path, *names: str) -> Path:
    """Create a folder below `base` and return it.

    Raises `OSError` with one sentence, also if `base` itself is missing: half of a result in a new `base`
    would pass for all of it.
    """
    folder = base
    try:
        for name in names:
            folder = folder / name
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of `replacing` that killed processes left in a folder, an hour after."""
    for file in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > LEFT:
                file.unlink()


def remove_partials(path: Path) -> None:
    """Delete temporary files of `replacing` for one path; only for a process that alone may write it."""
    for file in path.parent.glob(f"{glob.escape(_prefix(path))}*{PARTIAL}"):
        file.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    """Return how the names of temporary files of a path begin, and of no other path in its folder."""
    return f".{path.name[:40]}-{hashlib.sha256(path.name.encode()).hexdigest()[:8]}-"


@contextmanager
def replacing(path: Path, *, parents: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends without an exception.

    The file is flushed to the disk before it is renamed. Otherwise the old file stays, and the temporary one
    is deleted. `parents` creates the folder of `path`. Raises `OSError` in one sentence.
    """
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=PARTIAL)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private; other tools must read it
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file by way of `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by way of `replacing`."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write UTF-8 JSON by way of `replacing`; NaN is refused because no other JSON reader takes it."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def slug(text: str, length: int = 40) -> str:
    """Make a harmless piece of a file name: lower-case ASCII letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:length].strip("-") or "image"
