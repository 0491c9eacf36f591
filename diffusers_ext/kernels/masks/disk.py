"""CLEAR: an image token sees the tokens closer than a radius.

Paper: Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up" (arXiv
2412.16112). `(y_i - y_j)^2 + (x_i - x_j)^2 < r^2`, strictly, on the grid of tokens; the disk is clipped at
the border. Frames do not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import Grid, unpack
from .rule import CountingRule, Kind


@dataclass(frozen=True)
class Disk(CountingRule):
    """A disk of `radius` tokens, at least 1."""

    radius: int
    kind = Kind.DISK

    def __post_init__(self) -> None:
        if self.radius < 1:
            raise ValueError(
                f"A disk needs a radius of at least 1 token, got {self.radius}; 1 is the token alone."
            )

    @property
    def params(self) -> tuple[int, ...]:
        """The square of the radius, as a tuple."""
        return (self.radius**2,)

    @property
    def limit(self) -> int:
        """The square of the radius: scores are squares of distances, and frames have none."""
        return self.radius**2

    def scores(self, axis: int, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        counts = int(axis > 0)
        gap = torch.maximum(klo - qhi, qlo - khi).clamp(min=0)
        return gap.square() * counts, torch.maximum(khi - qlo, qhi - klo).square() * counts

    def pairs(self, grid: Grid) -> int:
        """Sum, over offsets inside the disk, the number of tokens that have such a neighbour."""
        t, h, w = grid
        dy, dx = torch.arange(min(h, self.radius)), torch.arange(min(w, self.radius))
        inside = dy[:, None] ** 2 + dx[None] ** 2 < self.radius**2
        rows, columns = (h - dy) * (1 + (dy > 0)), (w - dx) * (1 + (dx > 0))
        return t * t * int((inside * rows[:, None] * columns[None]).sum())

    def pairs_between(self, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> Tensor:
        """Count visible pairs; only sizes and offsets of boxes matter, and few of those differ."""
        facts = torch.cat([klo - qlo, qhi - qlo + 1, khi - klo + 1], -1).long()
        frames = facts[:, 3] * facts[:, 6]
        kinds, which = facts[:, [1, 2, 4, 5, 7, 8]].unique(dim=0, return_inverse=True)
        counts = [self._between(*row) for row in kinds.tolist()]
        return torch.tensor(counts, dtype=torch.long)[which] * frames

    def _between(self, y: int, x: int, h: int, w: int, other_h: int, other_w: int) -> int:
        """Count pairs between a box of `h x w` tokens and one of `other_h x other_w` at `(y, x)` from it."""
        dy = torch.arange(other_h)[:, None] + y - torch.arange(h)
        dx = torch.arange(other_w)[:, None] + x - torch.arange(w)
        return int((dy.square()[..., None, None] + dx.square() < self.radius**2).sum())


def sees(params: Sequence[int], table: Tensor, q_coord: Tensor, k_coord: Tensor) -> Tensor:
    """Return whether pairs see each other; `params = (radius squared,)`."""
    (_, qh, qw), (_, kh, kw) = unpack(q_coord), unpack(k_coord)
    dy, dx = qh - kh, qw - kw
    return dy * dy + dx * dx < params[0]  # a power of integers is six times slower
