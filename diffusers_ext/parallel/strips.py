"""Cut a picture into horizontal strips, and plan blocks for the queries of one strip."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.masks.disk import Disk
from ..kernels.plan.spec import RulePlanSpec


def cut(rows: int, strips: int) -> list[tuple[int, int]]:
    """Cut rows into strips whose heights differ by at most one: first row, and the row behind the last.

    Raises `ValueError` for more strips than rows.
    """
    if not 1 <= strips <= rows:
        raise ValueError(
            f"A picture of {rows} rows of tokens is cut into 1 to {rows} strips, got {strips}; use fewer "
            "processes."
        )
    return [(i * rows // strips, (i + 1) * rows // strips) for i in range(strips)]


@dataclass(frozen=True)
class StripPlanSpec(RulePlanSpec):
    """A plan whose grid queries are rows `first` to `last - 1` of the grid; its keys are the full grid.

    `text_keys=False` leaves the text out of the keys. With `first == last` all queries are text.
    """

    rule: Disk
    first: int = 0
    last: int = 0
    text_keys: bool = True

    @cached_property
    def q_order(self) -> Tensor:
        """The raster number of the grid token at each query place of the strip, -1 for padding."""
        _, _, w = self.grid
        if self.first == self.last:
            return torch.empty(0, dtype=torch.long)
        strip = RulePlanSpec(self.rule, (1, self.last - self.first, w), q_tile=self.q_tile, pad=self.pad)
        return torch.where(strip.q_order < 0, -1, strip.q_order + self.first * w)

    @cached_property
    def k_order(self) -> Tensor:
        """The raster number of the grid token at each key place, -1 for padding: those of all rows."""
        return self._order(self.k_tile)

    @property
    def pairs(self) -> int:
        """The number of pairs of tokens that these queries see."""
        _, h, w = self.grid
        dy = torch.arange(self.first, self.last)[:, None] - torch.arange(h)
        dx = torch.arange(w)
        inside = dy[..., None] ** 2 + dx**2 < self.rule.radius**2
        pairs = int((inside * ((w - dx) * (1 + (dx > 0)))).sum())
        text_q, text_k = self._texts()
        return pairs + (self.last - self.first) * w * text_k + text_q * (h * w + text_k)

    def _texts(self) -> tuple[int, int]:
        return self.text if self.text_rows else 0, self.text if self.text_keys else 0
