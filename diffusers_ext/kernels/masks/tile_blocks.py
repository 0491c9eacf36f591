"""Keep or drop tiles of keys as blocks.

For each tile of queries, key tiles are ranked by the share of their pairs that the rule shows. They are kept
until nine tenths of the visible pairs are covered, and computed without checks inside. Tiles with equal
shares are kept or dropped together. So windows of an odd number of tiles that move tile by tile lose nothing:
Sliding Tile Attention (Zhang et al., arXiv 2502.04507).
"""

from fractions import Fraction

from torch import Tensor

from .rule import CountingRule

KEPT = Fraction(9, 10)


def kept_tiles(rule: CountingRule, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
    """Marks the tiles that are kept, bool `[NQ, NK]`, from inclusive corners `[NQ, 3]` and `[NK, 3]`."""
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
