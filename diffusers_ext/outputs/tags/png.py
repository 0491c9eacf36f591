"""Read the texts of a PNG, and copy it without them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

MAGIC = b"\x89PNG\r\n\x1a\n"
KINDS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME")
MOST = 2**26  # bytes of a text; a small compressed one may claim to be gigabytes


class DamagedError(ValueError):
    """Raised for a file that breaks off, or is no file of its kind inside."""


def texts(file: BinaryIO) -> dict[str, str]:
    """Return the texts by their keys; raises `DamagedError` for a file that breaks off."""
    found = {}
    for kind, content in _chunks(file, KINDS[:3]):
        if content is not None:
            key, _, rest = content.partition(b"\0")
            found[key.decode("latin-1")] = _text(kind, rest)
    return found


def without(file: BinaryIO) -> bytes:
    """Return the file without texts, EXIF and time. Its pixels stay as they are, byte by byte."""
    out = [MAGIC]
    for kind, content in _chunks(file):
        if kind not in KINDS:
            out += [
                len(content).to_bytes(4, "big"),
                kind,
                content,
                zlib.crc32(kind + content).to_bytes(4, "big"),
            ]
    return b"".join(out)


def _chunks(file: BinaryIO, wanted: tuple[bytes, ...] | None = None) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield kind and content of each chunk. With `wanted`, the content of other kinds is `None`."""
    file.seek(0, 2)
    end = file.tell()
    file.seek(len(MAGIC))
    while True:
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or file.tell() + size + 4 > end:
            raise DamagedError("it breaks off")
        if wanted is None or kind in wanted:
            yield kind, file.read(size)
        else:
            file.seek(size, 1)
            yield kind, None
        file.seek(4, 1)  # the checksum
        if kind == b"IEND":
            return


def _text(kind: bytes, rest: bytes) -> str:
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflated(rest[1:]).decode("latin-1")
    packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    return (_inflated(rest) if packed else rest).decode(errors="replace")


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MOST)
    except zlib.error as error:
        raise DamagedError(f"a text in it cannot be unpacked ({error})") from None
