"""Find rows whose id has come before."""

from __future__ import annotations

from typing import Any

from ..rows import Row
from .entries import Bad, Entry


class Ids:
    """Remember the ids of the rows of a file.

    Whole numbers that count up, which most files have, take no memory. Any other id takes about 100 bytes.
    """

    def __init__(self) -> None:
        self._counted = range(0)
        self._others: set[str] = set()

    def checked(self, row: Row) -> Entry:
        """Return the row, or a `Bad` if its id has come before."""
        if "id" not in row.meta or self._is_new(row.meta["id"]):
            return row
        return Bad(
            row.source, f"has the id {row.meta['id']!r}, which came before; each row has an id of its own"
        )

    def _is_new(self, given: Any) -> bool:
        name = str(given)
        plain = len(name) < 20 and name.isdecimal() and name == str(int(name))
        number = int(name) if plain else None
        if name in self._others or (number is not None and number in self._counted):
            return False
        if number is not None and (not self._counted or number == self._counted.stop):
            start = self._counted.start if self._counted else number
            self._counted = range(start, number + 1)
        else:
            self._others.add(name)
        return True
