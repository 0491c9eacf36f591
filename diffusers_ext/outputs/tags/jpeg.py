"""Read and write the texts of a JPEG, which are in segments of at most 64 KB before the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from . import exif, xmp
from .png import DamagedError

MAGIC = b"\xff\xd8"
_EXIF, _XMP, _MORE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_START, _APP1 = 0xDA, 0xE1
PRIVATE = (_APP1, 0xED, 0xFE)  # EXIF and XMP, Photoshop, comments; colours need the others
_MOST = 65_533  # bytes in a segment
_HEAD = 32 + 4 + 4  # of a piece of a long packet: its name, the length of all, and where it begins


def segments(packet: bytes) -> bytes:
    """Return the segments of an XMP packet, one or several."""
    if len(_XMP) + len(packet) <= _MOST:
        return _segment(_XMP + packet)
    name = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper()
    size, out = _MOST - len(_MORE) - _HEAD, [_segment(_XMP + xmp.pointer(name))]
    for start in range(0, len(packet), size):
        numbers = len(packet).to_bytes(4, "big") + start.to_bytes(4, "big")
        out.append(_segment(_MORE + name.encode() + numbers + packet[start : start + size]))
    return b"".join(out)


def texts(file: BinaryIO) -> tuple[str | None, str | None]:
    """Return the record and the comment, each `None` without one."""
    short, comment, pieces = b"", None, {}
    for marker, content in _segments(file):
        if marker != _APP1:
            continue
        if content.startswith(_XMP):
            short += content.removeprefix(_XMP)
        elif content.startswith(_MORE):
            rest = content.removeprefix(_MORE)
            pieces[int.from_bytes(rest[36:40], "big")] = rest[_HEAD:]
        elif content.startswith(_EXIF):
            comment = exif.comment(content)
    return xmp.text_of(short + b"".join(pieces[start] for start in sorted(pieces))), comment


def without(file: BinaryIO) -> bytes:
    """Return the file without EXIF, XMP, Photoshop data and comments. The picture stays, byte by byte."""
    out = [MAGIC]
    for marker, content in _segments(file):
        if marker not in PRIVATE:
            out.append(_segment(content, marker))
    return b"".join([*out, file.read()])


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments before the picture; the file then stands at the picture."""
    file.seek(len(MAGIC))
    while True:
        head = file.read(2)
        if len(head) < 2 or head[0] != 0xFF:
            raise DamagedError("it breaks off")
        if head[1] == 0xFF:  # filling
            file.seek(-1, 1)
            continue
        if head[1] == _START:
            file.seek(-2, 1)
            return
        size = int.from_bytes(file.read(2), "big") - 2
        content = file.read(max(size, 0))
        if size < 0 or len(content) < size:
            raise DamagedError("it breaks off")
        yield head[1], content


def _segment(content: bytes, marker: int = _APP1) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
