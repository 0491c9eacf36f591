"""Read prompts from JSON: one object a line, or one list of texts or objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..rows import Row
from .entries import Bad, Entry, RowError, check_prompt, entry
from .lines import lines, place

Maker = Callable[[int, Any, str], Entry]
_PIECE = 2**16  # characters read at a time
_MOST = 2**24  # characters of one element of a list
_SPACE = " \t\n\r"


def of_value(index: int, value: Any, source: str) -> Entry:
    """Return the row of a JSON value: a text is a prompt, an object has the names of `entries`."""
    if isinstance(value, dict):
        return entry(index, value, source)
    try:
        return Row(index, check_prompt(value), source=source)
    except RowError:
        return Bad(source, f"is neither text nor an object, got {_short(value)}")


def json_lines(path: Path, make: Maker = of_value) -> Iterator[Entry]:
    """Yield a row for each line. Empty lines make none, but they count in the index."""
    for number, line in lines(path):
        source = place(path, number)
        if isinstance(line, Bad):
            yield line
        elif line.strip():
            try:
                value = decode(line)
            except ValueError as error:
                yield Bad(source, f"is not JSON: {error}")
            else:
                yield make(number - 1, value, source)


def json_list(path: Path, make: Maker = of_value) -> Iterator[Entry]:
    """Yield a row for each element of a list, which is read piece by piece.

    Raises `ValueError` for a file that holds no list, or breaks off.
    """
    for index, (line, value) in enumerate(_elements(path)):
        yield make(index, value, place(path, line))


def decode(text: str) -> Any:
    """Read one JSON value; raises `ValueError` in a few words. NaN and infinity are refused."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _elements(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the elements of a JSON list with the lines that they begin in."""
    text = _Text(path)
    first = text.next()
    if first != "[":
        raise ValueError(
            f"{str(path)!r} holds no list, it begins with {first!r}; prompts in JSON are a list of texts or "
            "objects, and .jsonl has one object a line"
        )
    if text.next() == "]":
        return
    text.back()
    while True:
        yield text.value()
        if (sign := text.next()) == "]":
            break
        if sign != ",":
            raise text.error("has no comma between two elements")
    if extra := text.next():
        raise text.error(f"goes on after the end of the list, with {extra!r}")


class _Text:
    """A text of which a few pieces are in memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._pieces = path, _pieces(path)
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def next(self) -> str:
        """Return the next character that is no space, and go behind it; nothing at the end."""
        while True:
            while self._at < len(self._text):
                sign = self._text[self._at]
                self._at += 1
                self._line += sign == "\n"
                if sign not in _SPACE:
                    return sign
            if not self._more():
                return ""

    def back(self) -> None:
        """Go back to before the character that `next` returned."""
        self._at -= 1

    def value(self) -> tuple[int, Any]:
        """Return line and value of the JSON value that begins here, and go behind it."""
        if not self.next():
            raise self.error("breaks off inside the list")
        self.back()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self.error("is nested too deeply") from None
            except ValueError as error:
                if not (self._cut(error) and self._more()):
                    raise self.error(f"is not JSON: {getattr(error, 'msg', error)}") from None
                continue
            if end == len(self._text) and self._more():  # a number may go on
                continue
            line = self._line
            self._line += self._text.count("\n", self._at, end)
            self._at = end
            return line, value

    def error(self, reason: str) -> ValueError:
        """Make an error that names the current line."""
        return ValueError(f"{place(self._path, self._line)} {reason}")

    def _cut(self, error: ValueError) -> bool:
        """Return whether an error may come from the end of what was read."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated") or error.pos + 16 > len(self._text)

    def _more(self) -> bool:
        if self._ended:
            return False
        piece = next(self._pieces, "")
        self._ended = not piece
        self._text, self._at = self._text[self._at :] + piece, 0
        if len(self._text) > _MOST:
            raise self.error(f"begins an element longer than {_MOST >> 20} MiB")
        return bool(piece)


def _pieces(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            while piece := file.read(_PIECE):
                yield piece
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(path)!r} is not UTF-8 ({error.reason}); save it as UTF-8") from error


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
