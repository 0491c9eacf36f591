"""Write the text that viewers show into EXIF data, and read it, as AUTOMATIC1111 does."""

from __future__ import annotations

from contextlib import suppress

COMMENT = 0x9286  # UserComment
_IFD = 0x8769
_UNICODE = b"UNICODE\0"
MOST = 60_000  # bytes; a JPEG takes 64 KB of EXIF


def block(text: str) -> bytes:
    """Return EXIF data with a comment; without one if the text is too long for a JPEG."""
    from PIL.Image import Exif

    exif = Exif()
    comment = _UNICODE + text.encode("utf-16-be", "replace")
    if len(comment) <= MOST:
        exif.get_ifd(_IFD)[COMMENT] = comment
        exif[_IFD] = exif.get_ifd(_IFD)
    return exif.tobytes()


def comment(data: bytes) -> str | None:
    """Return the comment in EXIF data, or `None` if it is missing, empty or no text, or the data damaged."""
    from PIL.Image import Exif

    exif, found = Exif(), None
    with suppress(Exception):  # Pillow raises many kinds of errors for damaged data
        exif.load(data)
        found = exif.get_ifd(_IFD).get(COMMENT)
    text = _decoded(found) if isinstance(found, bytes) else found
    return text.strip("\0 ") or None if isinstance(text, str) else None  # cameras write an empty one


def _decoded(found: bytes) -> str:
    if found.startswith(_UNICODE):
        raw = found.removeprefix(_UNICODE)
        order = "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"  # the standard leaves it open
        return raw.decode(order, "replace")
    return found.removeprefix(b"ASCII\0\0\0").decode(errors="replace")
