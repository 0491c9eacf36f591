"""Find the texts inside pictures and clips of any kind, and copy files without them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from .parameters import KEY
from .tags import jpeg, mp4, png, webp

CHUNK = "diffusers_ext"  # names the record; viewers read the text `parameters`
Texts = tuple[str | None, str | None]


def texts(path: str | os.PathLike[str]) -> Texts:
    """Return the record as JSON, and the block of `parameters`; each is `None` without one.

    The content says what kind of file it is. Pixels are not decoded, so files may be large. Raises
    `ValueError` for empty, damaged and other files, and `OSError` for those that cannot be read.
    """
    return _read(Path(path), _TEXTS)


def without(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file without records, comments, EXIF and the like; the picture is the same.

    Raises as `texts` does, and `ValueError` for a GIF, which has none.
    """
    return _read(Path(path), _WITHOUT)


def _read(path: Path, how: Mapping[str, Callable[[BinaryIO, Path], Any]]) -> Any:
    if not path.is_file():
        what = "is a folder; name a picture in it" if path.is_dir() else "is not there; check the path"
        raise FileNotFoundError(f"{str(path)!r} {what}")
    with path.open("rb") as file:
        kind = _kind(file.read(16))
        if kind is None:
            raise ValueError(_unknown(path))
        try:
            return how[kind](file, path)
        except png.DamagedError as error:
            raise ValueError(f"{str(path)!r} is damaged: {error}; make or copy it again") from error


def _kind(head: bytes) -> str | None:
    if head.startswith(png.MAGIC):
        return "png"
    if head.startswith(jpeg.MAGIC):
        return "jpeg"
    if head.startswith(webp.MAGIC) and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == mp4.MAGIC:
        return "mp4"
    return "gif" if head.startswith(b"GIF8") else None


def _unknown(path: Path) -> str:
    if not path.stat().st_size:
        return f"{str(path)!r} is empty, so the run that wrote it broke off; make it again"
    return f"{str(path)!r} is no PNG, JPEG, WebP, GIF or mp4 file, whatever its name is; choose one of these"


def _png(file: BinaryIO, _: Path) -> Texts:
    found = png.texts(file)
    return found.get(CHUNK), found.get(KEY)


def _mp4(_: BinaryIO, path: Path) -> Texts:
    """Return the record in the comment of a clip; comments of others hold none."""
    try:
        found = json.loads(mp4.comment(path) or "null")
    except (json.JSONDecodeError, RecursionError):
        return None, None
    return (json.dumps(found[CHUNK]) if isinstance(found, dict) and CHUNK in found else None), None


def _no_gif(_: BinaryIO, path: Path) -> bytes:
    raise ValueError(f"{str(path)!r} is a GIF, which holds no record; there is nothing to remove")


_TEXTS = MappingProxyType(
    {
        "png": _png,
        "jpeg": lambda file, _: jpeg.texts(file),
        "webp": lambda file, _: webp.texts(file),
        "mp4": _mp4,
        "gif": lambda *_: (None, None),
    }
)
_WITHOUT = MappingProxyType(
    {
        "png": lambda file, _: png.without(file),
        "jpeg": lambda file, _: jpeg.without(file),
        "webp": lambda file, _: webp.without(file),
        "mp4": lambda _, path: mp4.without(path),
        "gif": _no_gif,
    }
)
