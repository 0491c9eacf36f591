"""Report what a run makes before it can learn, with a bar on a terminal; it may take longer than learning."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def preparing(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Announce `total` units of work on stderr, of which `done` exist; yield a function that counts units."""
    from tqdm import tqdm

    look = sys.stderr.isatty()
    if not look:
        print(f"preparing {what}" + (f", from {done} of {total} on" if done else ""), file=sys.stderr)
    with tqdm(total=total, initial=done, desc=f"preparing {what}", disable=not look, leave=False) as bar:
        yield bar.update
