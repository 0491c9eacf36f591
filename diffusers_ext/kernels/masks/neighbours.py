"""Neighbours: tokens at most one step apart on every axis, diagonals included.

No kernel knows this rule. Plans use it to find the blocks that touch each other, which are visited without
checks.
"""

from dataclasses import dataclass

from torch import Tensor

from ..geometry import Grid
from .rule import Kind, Rule


@dataclass(frozen=True)
class Neighbours(Rule):
    """A cube of three tokens an edge, clipped at the borders of the grid."""

    kind = Kind.NONE
    params: tuple[int, ...] = ()

    def scores(self, axis: int, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        gap = (klo - qhi).maximum(qlo - khi)
        widest = (khi - qlo).maximum(qhi - klo)
        return (gap > 1).int(), (widest > 1).int()

    def pairs(self, grid: Grid) -> int:
        """Count pairs: each axis of n tokens has n pairs at distance 0 and 2 (n - 1) at distance 1."""
        t, h, w = (3 * n - 2 for n in grid)
        return t * h * w
