"""GNA: every token attends to a window around the leader of its group, shifted at the borders.

Paper: Hassani et al., "Generalized Neighborhood Attention" (arXiv 2504.16922). The rule is in
`kernels.masks.box`. Stride 1 is neighborhood attention, stride = window is blocked attention.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..errors import MethodError
from ..kernels.masks.box import Window, window_start
from ..kernels.recipe import Recipe
from .sparse import Grid, SparseMethod, first_steps, tiled

AXES = {"unit": "tokens along (t,) h, w", "low": 1}


@dataclass(frozen=True)
class GNA(SparseMethod):
    """Windows of `window` tokens that move in steps of `stride`, among tokens `dilation` apart.

    Each takes three numbers `(t, h, w)`, or two, `(h, w)`, for images. Raises `MethodError` for windows that
    do not fit the grid and strides above the window. Text sees all and is seen by all.
    """

    name: ClassVar[str] = "gna"

    window: Sequence[int] = field(
        default=(), metadata={**AXES, "help": "size of the window; the size of the axis hides nothing"}
    )
    stride: Sequence[int] = field(
        default=(1, 1, 1),
        metadata={**AXES, "help": "tokens that share a window; multiples of a tile are fast"},
    )
    dilation: Sequence[int] = field(
        default=(1, 1, 1), metadata={**AXES, "help": "distance of neighbouring tokens of a window"}
    )

    dense_steps: int | float = first_steps(0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.window:
            raise MethodError(
                "GNA needs a window, in tokens along (t, h, w), and got none; a third to a half of each axis "
                "of the grid is usual."
            )
        for name in ("window", "stride", "dilation"):
            value = tuple(getattr(self, name))
            if len(value) not in (2, 3):
                raise MethodError(
                    f"GNA {name} takes three numbers (t, h, w), or two (h, w) for images, got {len(value)}."
                )
            object.__setattr__(self, name, (1,) * (3 - len(value)) + value)
        for axis, w, s in zip("thw", self.window, self.stride, strict=True):
            if not 1 <= s <= w:
                raise MethodError(
                    f"GNA stride must lie between 1 and the window, got stride {s} and window {w} on axis "
                    f"{axis}; stride = window is blocked attention."
                )

    def rule(self, grid: Grid) -> Window:
        """The windows on a grid."""
        try:
            return Window(grid, self.window, self.stride, self.dilation)
        except ValueError as error:
            raise MethodError(f"GNA: {error}") from error

    def recipe(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> Recipe:
        """Tiles of 8 x 16 for images, 2 x 8 x 8 for video."""
        return tiled(self.rule(grid), grid, text, text_rows, tile)

    def nearest(self, grid: Grid, tile: tuple[Grid, Grid]) -> dict[str, Grid]:
        """Grid, window and smallest stride with which every visited block is FULL."""
        sizes = super().nearest(grid, tile)["grid"]
        fits = [_fit(n, w, a, b) for n, w, a, b in zip(sizes, self.window, *tile, strict=True)]
        window, stride = zip(*fits, strict=True)
        return {"grid": sizes, "window": window, "stride": stride}


def _fit(length: int, window: int, q_tile: int, k_tile: int) -> tuple[int, int]:
    """The window closest to `window` on one axis, and the smallest stride, that cover whole tiles only."""
    windows = [w for w in range(k_tile, length + 1, k_tile) if w > 1 or length == 1]
    for w in sorted(windows, key=lambda w: abs(w - window)):
        for s in range(1, w + 1):
            start = window_start(torch.arange(length), length, w, s).view(-1, q_tile)
            if bool((start == start[:, :1]).all()) and bool((start % k_tile == 0).all()):
                return w, s
    return length, math.gcd(length, q_tile)
