"""A cheaper search for heads: those that move little are left out, and the worse half is dropped early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import MethodError
from ...processors.head_set import Head
from ...settings.fields import setting
from .rounds import Rounds, Scores, ranked
from .search import HeadHunter


@dataclass(frozen=True)
class FastHeadHunter(HeadHunter):
    """Finds heads as `HeadHunter` does, with fewer pictures; this way is ours and not in the paper.

    First every head is ranked by how much its perturbation moves the latents in the first step, which takes
    one call of the denoiser for a pack of heads. The share `keep` of them goes on. Then each round scores
    them on a part of the pairs, drops the worse half, and goes on with more pairs, `halvings` times.
    """

    keep: float = setting(0.5, "fraction of heads", "that goes on; 1 keeps all", bounds=(0.0, 1.0))
    probes: int = setting(4, "pairs", "on which the first step is compared", bounds=(1, None))
    halvings: int = setting(2, "times", "that the worse half of the heads is dropped", bounds=(0, None))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 1 and self.guidance.start > 0:
            raise MethodError(
                "FastHeadHunter compares heads in the first step, which guidance with "
                f"start={self.guidance.start:g} leaves alone; set start=0, or keep=1 to try all heads."
            )

    def _tried(self, rounds: Rounds, pool: Sequence[Head], count: int) -> list[Head]:
        if (left := self._left(len(pool), count)) == len(pool):
            return list(pool)
        moves = rounds.moves(pool, range(min(self.probes, self.pairs)))
        kept = set(ranked(moves, pool)[:left])
        return [head for head in pool if head in kept]

    def _round(
        self, rounds: Rounds, base: tuple[Head, ...], left: Sequence[Head], count: int, number: int
    ) -> Scores:
        heads, scores = list(left), None
        for pairs, tried in self._stages(len(left), count):
            if scores is not None:
                best = set(ranked(scores.means, heads)[:tried])
                heads = [head for head in heads if head in best]
            scores = rounds.scores(base, heads, range(pairs), number)
        return scores

    def _planned(self, heads: int, count: int, pairs: int) -> int:
        left, total = self._left(heads, count), pairs
        for done in range(self.rounds):
            before = 0
            for upto, tried in self._stages(left - done * count, count):
                total += (upto - before) * tried
                before = upto
        return total

    def _left(self, heads: int, count: int) -> int:
        """Return how many heads are scored: the share `keep`, and no fewer than the rounds take."""
        return min(heads, max(math.ceil(self.keep * heads), count * self.rounds))

    def _stages(self, heads: int, count: int) -> list[tuple[int, int]]:
        """Return for each stage of a round the pairs that are used by its end, and the heads tried."""
        times = range(self.halvings + 1)
        ends = [math.ceil(self.pairs / 2 ** (self.halvings - i)) for i in times]
        return [(end, max(count, math.ceil(heads / 2**i))) for i, end in zip(times, ends, strict=True)]
