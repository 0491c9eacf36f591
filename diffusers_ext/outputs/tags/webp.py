"""Read the texts of a WebP, and copy it without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from . import exif, xmp
from .png import DamagedError

MAGIC = b"RIFF"  # and WEBP from byte 8 on
_EXIF, _XMP, _HEAD = b"EXIF", b"XMP ", b"VP8X"
_FLAGS = 0b1100  # in the head: the file has EXIF, and XMP


def texts(file: BinaryIO) -> tuple[str | None, str | None]:
    """Return the record and the comment, each `None` without one."""
    record = comment = None
    for kind, content in _chunks(file, (_EXIF, _XMP)):
        if kind == _XMP:
            record = xmp.text_of(content)
        elif kind == _EXIF:
            comment = exif.comment(content)
    return record, comment


def without(file: BinaryIO) -> bytes:
    """Return the file without EXIF and XMP. The picture stays, byte by byte."""
    out = b"WEBP"
    for kind, content in _chunks(file):
        if kind == _HEAD:
            content = bytes([content[0] & ~_FLAGS]) + content[1:]
        if kind not in (_EXIF, _XMP):
            out += kind + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)
    return MAGIC + len(out).to_bytes(4, "little") + out


def _chunks(file: BinaryIO, wanted: tuple[bytes, ...] | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each chunk, or only of those that are `wanted`."""
    file.seek(0, 2)
    end = file.tell()
    file.seek(4)
    if int.from_bytes(file.read(4), "little") + 8 > end:
        raise DamagedError("it breaks off")
    file.seek(12)
    while head := file.read(8):
        size = int.from_bytes(head[4:], "little")
        if len(head) < 8 or file.tell() + size > end:
            raise DamagedError("it breaks off")
        if wanted is None or head[:4] in wanted:
            yield head[:4], file.read(size)
        else:
            file.seek(size, 1)
        file.seek(size % 2, 1)
