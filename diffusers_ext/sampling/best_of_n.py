"""Draw several pictures of a prompt and keep the one with the highest reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..settings.fields import setting
from .sampler import Sampler
from .search import Search


@dataclass(frozen=True, kw_only=True)
class BestOfN(Sampler):
    """Draws `n` pictures and keeps the best.

    With `n=1` it is the plain pipeline. A `budget` lowers `n` to what it pays for. With a `micro_batch` as
    many are finished at a time, so a search that is stopped keeps those before. With `seconds` that is one.
    """

    name: ClassVar[str] = "best-of-n"
    grows: ClassVar[str] = "n"
    n: int = setting(8, "candidates", "for each prompt", bounds=(1, None))

    def search(self, search: Search) -> None:
        """Draw all candidates in one call, or in several of `micro_batch` candidates."""
        steps, each = search.host.schedule() if self.budget is not None else (0, 0)
        n = min(self.n, self.affordable(search, steps * each))
        size = min(self.micro_batch or (n if self.seconds is None else 1), n)
        for first in range(0, n, size):
            search.play(self.starts(search, min(size, n - first), first))
