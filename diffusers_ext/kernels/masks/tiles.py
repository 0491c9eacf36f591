"""The block rule of tiles: those of which most is seen, until nine tenths of what a rule shows is kept.

Kept tiles are computed whole. Tiles seen alike are kept or dropped together, so windows of an odd number of
tiles that move tile by tile lose nothing: Sliding Tile Attention (Zhang et al., arXiv 2502.04507).
"""

from fractions import Fraction
from typing import Protocol

from torch import Tensor

from . import Rule

KEPT = Fraction(9, 10)


class Shares(Rule, Protocol):
    """A rule that tells how much of two boxes sees each other, not just whether some or all does."""

    def pairs_between(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
        """int64 `[n]`: visible pairs of the tokens of two boxes, inclusive corners `[n, 3]`."""


def kept_tiles(rule: Shares, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
    """bool `[NQ, NK]`, from inclusive corners `[NQ, 3]` and `[NK, 3]` of tiles."""
    touched, full = rule.touch(qlo[:, None], qhi[:, None], klo[None], khi[None])
    q_sizes, k_sizes = ((hi - lo + 1).long().prod(-1) for lo, hi in ((qlo, qhi), (klo, khi)))
    whole = q_sizes[:, None] * k_sizes
    seen = whole * full
    i, j = (touched & ~full).nonzero(as_tuple=True)
    seen[i, j] = rule.pairs_between(qlo[i], qhi[i], klo[j], khi[j])
    share = seen.double() / whole
    ranked, order = share.sort(1, descending=True)
    gathered = seen.gather(1, order).cumsum(1)
    short = gathered * KEPT.denominator < gathered[:, -1:] * KEPT.numerator
    return touched & (share >= ranked.gather(1, short.sum(1, keepdim=True)))
