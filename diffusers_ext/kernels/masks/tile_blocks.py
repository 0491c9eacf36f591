"""Keep or drop complete tiles of keys as blocks.

For each tile of queries, key tiles are ranked by the share of their pairs that the rule allows. They are kept
until 90 % of the allowed pairs are covered, and computed without checks inside. Tiles with equal shares are
kept or dropped together. So a window of an odd number of tiles that moves tile by tile loses nothing. That is
Sliding Tile Attention (Zhang et al., arXiv 2502.04507).
"""

from fractions import Fraction

from torch import Tensor

from .rule import CountingRule

KEPT = Fraction(9, 10)


def tile_blocks(rule: CountingRule, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
    """Mark the tiles that are kept, bool `[NQ, NK]`, from inclusive corners `[NQ, 3]` and `[NK, 3]`."""
    touched, full = rule.touch(qlo[:, None], qhi[:, None], klo[None], khi[None])
    q_sizes, k_sizes = ((hi - lo + 1).long().prod(-1) for lo, hi in ((qlo, qhi), (klo, khi)))
    sizes = q_sizes[:, None] * k_sizes
    seen = sizes * full
    i, j = (touched & ~full).nonzero(as_tuple=True)
    seen[i, j] = rule.pairs_between(qlo[i], qhi[i], klo[j], khi[j])
    share = seen.double() / sizes
    ranked, order = share.sort(1, descending=True)
    gathered = seen.gather(1, order).cumsum(1)
    short = gathered * KEPT.denominator < gathered[:, -1:] * KEPT.numerator
    return touched & (share >= ranked.gather(1, short.sum(1, keepdim=True)))
