"""A rule says which tokens see each other; each has a file.

It is a small frozen dataclass, equal for equal settings. It names its `kind`, its integer `params` and a
`table` for kernels. Plans call two methods. `scores` decides for boxes of tokens, one axis at a time, whether
any pair sees each other, and whether all do. `pairs` is the number of visible pairs of a grid.
`masks.visible` applies the rule to single pairs.
"""

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import ClassVar

import torch
from torch import Tensor

from ..geometry import Grid


class Kind(IntEnum):
    """The rules that a kernel knows; each file describes the parameters of its rule."""

    NONE = 0  # everything in a visited block
    DISK = 1
    BOX = 2
    BAND = 3
    LUT = 4


class Rule(ABC):
    """A rule, with the methods that plans need.

    Boxes are inclusive corners `lo, hi [..., 3]` on the axes that `axes` returns.
    """

    kind: ClassVar[Kind]
    limit: int = 1  # what the scores of a pair of boxes stay below

    @property
    @abstractmethod
    def params(self) -> tuple[int, ...]:
        """The numbers that the predicate of a kernel needs."""

    def table(self) -> Tensor:
        """Make the table that a kernel looks up, int32; empty if the rule needs none."""
        return no_table()

    def axes(self, t: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return coordinates in which boxes decide the rule; `t, h, w` themselves unless it has others."""
        return t, h, w

    @abstractmethod
    def scores(self, axis: int, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        """Score two intervals of an axis, from their ends, by the pair closest to and farthest from view.

        Some query of a box sees some key of another if its closest scores, summed over the axes, are below
        `limit`. Every query sees every key if the farthest are.
        """

    def touch(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        """Decide for two boxes whether some query sees some key, and whether every query sees every key."""
        ends = qlo, qhi, klo, khi
        close, far = zip(*(self.scores(a, *(x[..., a] for x in ends)) for a in range(3)), strict=True)
        return sum(close) < self.limit, sum(far) < self.limit

    @abstractmethod
    def pairs(self, grid: Grid) -> int:
        """Count visible (query, key) pairs among the tokens of the grid."""


class CountingRule(Rule):
    """A rule that also counts how many tokens of two boxes see each other."""

    @abstractmethod
    def pairs_between(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
        """Count visible pairs of the tokens of two boxes, int64 `[n]`, from inclusive corners `[n, 3]`."""


def no_table() -> Tensor:
    """Make the empty table of rules that need none."""
    return torch.empty(0, dtype=torch.int32)
