"""Who sees whom, one rule a file.

A rule is a small frozen dataclass, equal for equal settings, that names its `kind`, its integer `params` and
a `table` for kernels, and answers two questions for planners: `touch`, for boxes of tokens (does any pair see
each other, do all), and `pairs`, the number of visible pairs of a grid. `visible` is the rule for single
pairs.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor

from ..geometry import PAD, TEXT, Grid


class Kind(IntEnum):
    """The rules a kernel knows; their parameters are described in the file of each."""

    NONE = 0  # everything in a visited block
    DISK = 1
    BOX = 2
    BAND = 3
    LUT = 4


class Rule(Protocol):
    """What planners ask. Boxes are inclusive corners `lo, hi [..., 3]` on the axes that `axes` gives."""

    kind: Kind

    @property
    def params(self) -> tuple[int, ...]:
        """What the predicate of a kernel needs."""

    def table(self) -> Tensor:
        """int32, empty where the rule needs none."""

    def axes(self, t: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates in which the rule is told by boxes; usually `t, h, w` themselves."""

    def touch(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        """`any`: some query of a box sees some key of the other; `full`: every query sees every key."""

    def pairs(self, grid: Grid) -> int:
        """Visible (query, key) pairs among the tokens of the grid."""


def visible(kind: Kind, params: Sequence[int], table: Tensor, q_coord: Tensor, k_coord: Tensor) -> Tensor:
    """Token predicate on packed coordinates that broadcast against each other, sentinels included."""
    text = (q_coord == TEXT) | (k_coord == TEXT)
    there = (q_coord != PAD) & (k_coord != PAD)
    if kind == Kind.NONE:
        return there
    return (text | _predicate(kind)(params, table, q_coord, k_coord)) & there


def _predicate(kind: Kind) -> Callable[..., Tensor]:
    from . import band, box, disk, lut

    return {Kind.DISK: disk.sees, Kind.BOX: box.sees, Kind.BAND: band.sees, Kind.LUT: lut.sees}[kind]


def no_table() -> Tensor:
    """For rules that need no table."""
    return torch.empty(0, dtype=torch.int32)


def same_axes(t: Tensor, h: Tensor, w: Tensor) -> tuple[Any, Any, Any]:
    """For rules that think in `t, h, w`."""
    return t, h, w
