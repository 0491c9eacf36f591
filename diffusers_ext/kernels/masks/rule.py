"""Who sees whom, one rule a file.

A rule is a small frozen dataclass, equal for equal settings. It names its `kind`, its integer `params` and a
`table` for kernels. It answers two questions for planners: `touch`, for boxes of tokens (does any pair see
each other, do all), and `pairs`, the number of visible pairs of a grid. `visible` is the rule for single
pairs.
"""

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import ClassVar

import torch
from torch import Tensor

from ..geometry import Grid


class Kind(IntEnum):
    """The rules a kernel knows; their parameters are described in the file of each."""

    NONE = 0  # everything in a visited block
    DISK = 1
    BOX = 2
    BAND = 3
    LUT = 4


class Rule(ABC):
    """A rule, with what planners ask it.

    Boxes are inclusive corners `lo, hi [..., 3]` on the axes that `axes` gives.
    """

    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def params(self) -> tuple[int, ...]:
        """What the predicate of a kernel needs."""

    def table(self) -> Tensor:
        """Makes what a kernel looks up, int32; empty where the rule needs no table."""
        return no_table()

    def axes(self, t: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gives coordinates in which boxes decide the rule; `t, h, w` themselves where it has no other."""
        return t, h, w

    @abstractmethod
    def touch(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        """Says for two boxes whether some query sees some key, and whether every query sees every key."""

    @abstractmethod
    def pairs(self, grid: Grid) -> int:
        """Counts visible (query, key) pairs among the tokens of the grid."""


class CountingRule(Rule):
    """A rule that also counts how many tokens of two boxes see each other."""

    @abstractmethod
    def pairs_between(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
        """Counts visible pairs of the tokens of two boxes, int64 `[n]`, from inclusive corners `[n, 3]`."""


def no_table() -> Tensor:
    """Makes the empty table of rules that need none."""
    return torch.empty(0, dtype=torch.int32)
