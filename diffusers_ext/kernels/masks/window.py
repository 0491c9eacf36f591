"""Generalized neighborhood attention: a window per axis that moves in strides and never leaves the grid.

Paper: Hassani et al., "Generalized Neighborhood Attention" (arXiv 2504.16922). An axis has length L, window
w, stride s and dilation d. A query at i belongs to the group `i mod d` and has index `i // d` there. Every s
neighbouring indices share the window around their leader `(i // s) s + s // 2`. Even windows reach one
further to the left. Windows shift at borders, so every query sees exactly w keys an axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import Grid, unpack
from .rule import CountingRule, Kind

AXES = ("t", "h", "w")


@dataclass(frozen=True)
class Window(CountingRule):
    """A window on a grid, all in tokens along `(t, h, w)`; raises `ValueError` if it does not fit an axis."""

    grid: Grid
    window: Grid
    stride: Grid = (1, 1, 1)
    dilation: Grid = (1, 1, 1)
    kind = Kind.BOX

    def __post_init__(self) -> None:
        for axis, size, w, s, d in zip(AXES, self.grid, self.window, self.stride, self.dilation, strict=True):
            if d < 1 or s < 1 or w < 1 or (w < 2 and size > 1):
                raise ValueError(
                    f"A window needs at least 2 tokens, a stride and a dilation at least 1, got window {w}, "
                    f"stride {s}, dilation {d} on axis {axis} of {size} tokens; a window of 1 only fits an "
                    "axis of 1."
                )
            if w * d > size:
                raise ValueError(
                    f"A window times its dilation must fit into the grid, got {w} x {d} on axis {axis} of "
                    f"{size} tokens; the largest window there is {size // d or 1}."
                )
            if s > w:
                raise ValueError(
                    f"A stride must not exceed its window, got stride {s} and window {w} on axis {axis}; use "
                    f"a stride of 1 to {w}."
                )

    @property
    def params(self) -> tuple[int, ...]:
        """The `(length, window, stride, dilation)` of t, then of h, then of w: twelve numbers."""
        return tuple(n for axis in self._axes() for n in axis)

    def scores(self, axis: int, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        touched, full = _touch_axis(qlo, qhi, klo, khi, *self._axes()[axis])
        return (~touched).int(), (~full).int()

    def pairs(self, grid: Grid) -> int:
        """Count pairs: every query sees its full window."""
        t, h, w = self.window
        return grid[0] * grid[1] * grid[2] * t * h * w

    def pairs_between(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
        """Multiply the visible pairs of the axes; it takes no dilation, which leaves gaps."""
        if max(self.dilation) > 1:
            raise ValueError(f"Tiles hold all groups of a dilation, got {self.dilation}; use 1.")
        out = torch.ones(len(qlo), dtype=torch.long)
        for a, (length, window, stride, _) in enumerate(self._axes()):
            corners = (x[..., a].long() for x in (qlo, qhi, klo, khi))
            out *= _pairs_axis(*corners, length, window, stride)
        return out

    def _axes(self) -> list[tuple[int, int, int, int]]:
        return list(zip(self.grid, self.window, self.stride, self.dilation, strict=True))


def window_start(i: Tensor, length: int, window: int, stride: int, dilation: int = 1) -> Tensor:
    """Find the first key of the window of query `i`, as an index inside its dilation group."""
    group, index = i % dilation, i // dilation
    inside = (length - group + dilation - 1) // dilation  # tokens of the group
    leader = torch.minimum(index // stride * stride + stride // 2, inside - 1)
    return torch.minimum((leader - window // 2).clamp(min=0), inside - window)


def _touch_axis(
    qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor, length: int, window: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Decide `touch` on one axis.

    Starts never decrease and no stride exceeds the window, so the windows of an interval of queries have no
    gap. Their union is from the first start to the last end, their intersection from the last start to the
    first end. With dilation this is true of each group.
    """
    touched = torch.zeros(torch.broadcast_shapes(qlo.shape, klo.shape), dtype=torch.bool)
    full = torch.ones_like(touched)
    for group in range(dilation):
        q0, q1 = _members(qlo, qhi, group, dilation)
        k0, k1 = _members(klo, khi, group, dilation)
        there = q0 <= q1
        first, last = (
            window_start((x * dilation + group).clamp(0, length - 1), length, window, stride, dilation)
            for x in (q0, q1)
        )
        touched |= there & (k0 <= k1) & (k0 < last + window) & (k1 >= first)
        alone = k1 - k0 == khi - klo  # every key of the interval belongs to this group
        full &= ~there | (alone & (k0 >= last) & (k1 < first + window))
    return touched, full


def _members(lo: Tensor, hi: Tensor, group: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Find the first and last index, inside a dilation group, of the tokens `lo..hi`."""
    return -((group - lo) // dilation), (hi - group) // dilation


def _pairs_axis(
    q0: Tensor, q1: Tensor, k0: Tensor, k1: Tensor, length: int, window: int, stride: int
) -> Tensor:
    """Count visible pairs between intervals of queries and of keys, few of which differ."""
    interval = k0 * length + k1
    kinds = torch.bincount(interval, minlength=1).nonzero().flatten()  # `unique` would sort them all
    which = torch.zeros(int(kinds[-1]) + 1 if len(kinds) else 0, dtype=torch.long)
    which[kinds] = torch.arange(len(kinds))
    which = which[interval]
    first, last = kinds // length, kinds % length
    start = window_start(torch.arange(length), length, window, stride)[:, None]
    seen = ((last + 1).minimum(start + window) - first.maximum(start)).clamp(min=0)
    sums = torch.nn.functional.pad(seen.cumsum(0), (0, 0, 1, 0))
    return sums[q1 + 1, which] - sums[q0, which]


def sees(params: Sequence[int], table: Tensor, q_coord: Tensor, k_coord: Tensor) -> Tensor:
    """Return whether pairs see each other; `params` are those of `Window`."""
    out = None  # never in place: FlexAttention traces this for one pair at a time
    for axis, (q, k) in enumerate(zip(unpack(q_coord), unpack(k_coord), strict=True)):
        length, window, stride, dilation = params[4 * axis : 4 * axis + 4]
        start = window_start(q, length, window, stride, dilation)
        index = k // dilation
        inside = (q % dilation == k % dilation) & (index >= start) & (index < start + window)
        out = inside if out is None else out & inside
    return out
