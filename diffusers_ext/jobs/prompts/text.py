"""Read prompts from a text file, one a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..rows import Row
from .entries import Bad, Entry, RowError, check_prompt
from .lines import lines, place


def text(path: Path) -> Iterator[Entry]:
    """Yield a row for each line, without spaces at its ends.

    Empty lines make none, but they count in the index.
    """
    for number, line in lines(path):
        source = place(path, number)
        if isinstance(line, Bad):
            yield line
        elif prompt := line.strip():
            try:
                yield Row(number - 1, check_prompt(prompt), source=source)
            except RowError as error:
                yield Bad(source, str(error))
