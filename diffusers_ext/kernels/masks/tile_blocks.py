"""Keep or drop complete tiles of keys as blocks.

For each tile of queries, key tiles are ranked by the share of their pairs that the rule allows. They are kept
until 90 % of the allowed pairs are covered, and computed without checks inside. Tiles with equal shares are
kept or dropped together. So a window of an odd number of tiles that moves tile by tile loses nothing. That is
Sliding Tile Attention (Zhang et al., arXiv 2502.04507).
"""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from .rule import CountingRule

KEPT = Fraction(9, 10)
Corners = tuple[Tensor, Tensor]


def tile_blocks(
    rule: CountingRule, q: Corners, k: Corners, row: Tensor, column: Tensor, full: Tensor
) -> Tensor:
    """Mark the tiles of keys that are kept, bool `[n]`, among those that `rule` touches, row after row.

    `row, column [n]` are the numbers of the tiles of each pair, and `full [n]` says whether all of its pairs
    are allowed. `q` and `k` are the inclusive corners, lowest and highest `[tiles, 3]`.
    """
    q_sizes, k_sizes = ((hi - lo + 1).long().prod(-1) for lo, hi in (q, k))
    sizes = q_sizes[row] * k_sizes[column]
    partial = (~full).nonzero().flatten()
    corners = *(x[row[partial]] for x in q), *(x[column[partial]] for x in k)
    seen = sizes.clone()
    seen[partial] = rule.pairs_between(*corners)
    share = seen.double() / sizes
    order = share.argsort(descending=True)
    order = order[row[order].argsort(stable=True)]  # row after row, the largest share of each first
    total = torch.zeros(len(q_sizes), dtype=torch.long).index_add_(0, row, seen)
    before = F.pad(total.cumsum(0), (1, 0))[row]
    short = (seen[order].cumsum(0) - before) * KEPT.denominator < total[row] * KEPT.numerator
    count = torch.bincount(row, minlength=len(total))
    first = F.pad(count.cumsum(0), (1, 0))[:-1]
    last = first + torch.zeros_like(count).index_add_(0, row, short.long())  # where nine tenths are reached
    return share >= share[order].index_select(0, last.clamp(max=len(row) - 1))[row]
