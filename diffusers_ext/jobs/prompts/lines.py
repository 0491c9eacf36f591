"""Read a file line by line, as UTF-8, and in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .entries import Bad

MOST = 2**24  # bytes of a line; more is no prompt, and may be a file of another kind
_OTHERS = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 begins, which spreadsheets write as "Unicode text"


def lines(path: Path) -> Iterator[tuple[int, str | Bad]]:
    """Yield number and text of each line, ends of lines included. The first line has the number 1.

    A byte order mark is left out. A line that is not UTF-8, or longer than 16 MiB, is a `Bad`.
    Raises `ValueError` for UTF-16.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MOST):
            number += 1
            if number == 1:
                if line.startswith(_OTHERS):
                    raise ValueError(f"{str(path)!r} is UTF-16, not UTF-8; save it as UTF-8")
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield number, _text(path, number, line)
            while len(line) == MOST and not line.endswith(b"\n"):  # the rest of a line that is too long
                line = file.readline(MOST)


def place(path: Path, number: int, what: str = "line") -> str:
    """Name a place in a file, for errors."""
    return f"{path.name}, {what} {number}"


def _text(path: Path, number: int, line: bytes) -> str | Bad:
    if len(line) == MOST and not line.endswith(b"\n"):
        return Bad(place(path, number), f"is longer than {MOST >> 20} MiB; check that the file is text")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return Bad(place(path, number), f"is not UTF-8 (byte {line[error.start]:#04x}); save it as UTF-8")
