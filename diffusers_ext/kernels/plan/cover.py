"""Find the blocks of keys in which a block of queries sees something, among the tokens of the grid.

Blocks are decided by the scores of their boxes, one axis at a time. Few intervals of an axis differ, so their
scores are computed once, in a table, and looked up for each pair of blocks.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks.rule import CountingRule, Rule
from ..masks.tile_blocks import tile_blocks
from .boxes import Boxes

CHUNK = 1 << 20  # pairs of blocks, or of their boxes, in one step
NEVER = 1 << 30  # a score above any limit


@dataclass(frozen=True)
class Cover:
    """The blocks in which tokens of the grid see each other, listed row after row.

    `count [NQ]` is the number of blocks in each row of queries. `entries int32 [nnz]` are
    `key block << 1 | full`, ascending in a row. FULL blocks show every key that they hold to every query.
    """

    count: Tensor
    entries: Tensor


def cover(rule: Rule, q: Boxes, k: Boxes, rows: Tensor | None = None) -> Cover:
    """Cover what `rule` shows exactly, from the boxes of the blocks of queries and of keys.

    `rows` are the numbers of some blocks of queries, for the cover of these alone.
    """
    rows = torch.arange(len(q.there)) if rows is None else rows
    scores = _Scores(rule, (q.outer_lo, q.outer_hi, q.some), (k.outer_lo, k.outer_hi, k.some))
    several = q.several, k.several
    inner = _inner(rule, q, k) if any(bool(side.any()) for side in several) else None
    counts, entries = [], []
    for part in rows.split(max(1, CHUNK // len(k.there))):
        i, j = scores.touched(part).T.contiguous().nonzero(as_tuple=True)
        full = scores.full(part[i], j)
        if inner is not None:
            unclear = (~full & (several[0][part][i] | several[1][j])).nonzero().flatten()
            kept = torch.ones_like(full)
            kept[unclear], full[unclear] = inner(part[i[unclear]], j[unclear])
            i, j, full = i[kept], j[kept], full[kept]
        counts.append(torch.bincount(i, minlength=len(part)))
        entries.append((j << 1 | full).int())
    return Cover(torch.cat(counts), torch.cat(entries))


def whole_tiles(rule: CountingRule, q: Boxes, k: Boxes, exact: Cover) -> Cover:
    """Keep the tiles that hold most of what `rule` shows, of an exact cover; see `masks.tile_blocks`."""
    row, column = torch.arange(len(exact.count)).repeat_interleave(exact.count), exact.entries >> 1
    corners = (q.outer_lo, q.outer_hi), (k.outer_lo, k.outer_hi)
    kept = tile_blocks(rule, *corners, row, column.long(), (exact.entries & 1).bool())
    count = torch.bincount(row[kept], minlength=len(exact.count))
    return Cover(count, column[kept] << 1 | 1)


class _Scores:
    """The scores of pairs of boxes, from corners `[n, 3]` of queries and of keys and which boxes there are.

    A box that is not there sees nothing and hides nothing.
    """

    def __init__(self, rule: Rule, q: tuple[Tensor, ...], k: tuple[Tensor, ...]) -> None:
        self.limit = rule.limit
        (qlo, qhi, q_there), (klo, khi, k_there) = q, k
        axes = [_Axis(rule, axis, *(x[:, axis] for x in (qlo, qhi, klo, khi))) for axis in range(3)]
        self.axes = [axis for axis in axes if axis.counts] or axes[:1]
        self.axes[0].mark_absent(q_there, k_there)

    def touched(self, rows: Tensor) -> Tensor:
        """Return whether some pair sees each other, `[keys, rows]`, for some boxes of queries."""
        return _sum(axis.close_to_all(rows) for axis in self.axes) < self.limit

    def close(self, i: Tensor, j: Tensor) -> Tensor:
        """Return whether some pair sees each other, for boxes `i` and `j`, which broadcast."""
        return _sum(axis.close(i, j) for axis in self.axes) < self.limit

    def full(self, i: Tensor, j: Tensor) -> Tensor:
        """Return whether all pairs see each other, for boxes `i` and `j`, which broadcast."""
        return _sum(axis.far(i, j) for axis in self.axes) < self.limit


def _sum(scores: Iterable[Tensor]) -> Tensor:
    """Add the scores of the axes."""
    return reduce(Tensor.add_, scores)


class _Axis:
    """The scores of one axis, in a table of the intervals that differ."""

    def __init__(self, rule: Rule, axis: int, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> None:
        (q0, q1, self.q), (k0, k1, self.k) = _intervals(qlo, qhi), _intervals(klo, khi)
        self.scores = rule.scores(axis, q0, q1, k0[:, None], k1[:, None])  # [keys, queries]

    @property
    def counts(self) -> bool:
        """Whether some score of this axis differs from 0."""
        return any(bool(scores.any()) for scores in self.scores)

    @cached_property
    def first(self) -> Tensor:
        """The place of the scores of each key in the table."""
        return self.k * self.scores[0].shape[1]

    def mark_absent(self, q_there: Tensor, k_there: Tensor) -> None:
        """Add an interval that sees nothing and hides nothing, for boxes that are not there."""
        keys, queries = self.scores[0].shape
        self.scores = tuple(
            F.pad(scores, (0, 1, 0, 1), value=absent)
            for scores, absent in zip(self.scores, (NEVER, -NEVER), strict=True)
        )
        self.q, self.k = self.q.where(q_there, queries), self.k.where(k_there, keys)

    def close_to_all(self, rows: Tensor) -> Tensor:
        # Rows of a table are copied much faster than columns, hence keys come first.
        return self.scores[0].index_select(1, self.q[rows]).index_select(0, self.k)

    def close(self, i: Tensor, j: Tensor) -> Tensor:
        return self.scores[0].take(self.first[j] + self.q[i])

    def far(self, i: Tensor, j: Tensor) -> Tensor:
        return self.scores[1].take(self.first[j] + self.q[i])


def _intervals(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ends of intervals that differ, and the number of each interval among them."""
    kinds, which = (lo.long() << 32 | hi.long()).unique(return_inverse=True)
    return (kinds >> 32).int(), (kinds & 0xFFFFFFFF).int(), which


def _inner(rule: Rule, q: Boxes, k: Boxes) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what decides pairs of blocks by all boxes inside them."""
    a, b = q.there.shape[1], k.there.shape[1]
    scores = _Scores(rule, *([x.flatten(0, 1) for x in (side.lo, side.hi, side.there)] for side in (q, k)))

    def decide(i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        touched, full = torch.zeros(2, len(i), dtype=torch.bool)
        for part in torch.arange(len(i)).split(max(1, CHUNK // (a * b))):
            touched[part] = scores.close(*boxes(i[part], j[part])).flatten(0, 1).any(0)
            part = part[touched[part]]
            full[part] = scores.full(*boxes(i[part], j[part])).flatten(0, 1).all(0)
        return touched, full

    def boxes(i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes of some blocks of queries, `[a, 1, n]`, and of keys, `[1, b, n]`."""
        return i * a + torch.arange(a)[:, None, None], j * b + torch.arange(b)[:, None]

    return decide
