"""The block rule of tiles: a tile is kept where at least a third of its pairs of tokens see each other.

Kept tiles are computed whole. Windows of an odd number of tiles that move tile by tile lose nothing: Sliding
Tile Attention (Zhang et al., arXiv 2502.04507). A third is what radial attention asks of a column of a block;
half would leave a disk of radius 16 half of its pairs, since the next tiles of 8 x 16 lie on its edge. Tiles
that share tokens always see each other.
"""

from fractions import Fraction
from typing import Protocol

from torch import Tensor

from . import Rule

KEPT = Fraction(1, 3)


class Shares(Rule, Protocol):
    """A rule that tells how much of two boxes sees each other, not just whether some or all does."""

    def pairs_between(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
        """int64 `[n]`: visible pairs of the tokens of two boxes, inclusive corners `[n, 3]`."""


def kept_tiles(rule: Shares, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
    """bool `[NQ, NK]`, from inclusive corners `[NQ, 3]` and `[NK, 3]` of tiles."""
    corners = qlo[:, None], qhi[:, None], klo[None], khi[None]
    touched, full = rule.touch(*corners)
    shared = ((qlo[:, None] <= khi) & (klo <= qhi[:, None])).all(-1)
    kept = (touched & full) | shared
    i, j = (touched & ~kept).nonzero(as_tuple=True)
    whole = (qhi[i] - qlo[i] + 1).long().prod(-1) * (khi[j] - klo[j] + 1).long().prod(-1)
    seen = rule.pairs_between(qlo[i], qhi[i], klo[j], khi[j])
    kept[i, j] = seen * KEPT.denominator >= whole * KEPT.numerator
    return kept
