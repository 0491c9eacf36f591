"""GNA: every token attends to a window around the leader of its group, shifted at the borders.

Paper: Hassani et al., "Generalized Neighborhood Attention" (arXiv 2504.16922). The rule is in
`kernels.masks.window`. Stride 1 is neighborhood attention, stride = window is blocked attention.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ..core import Core, RunContext, Site
from ..errors import MethodError
from ..kernels.geometry import Grid
from ..kernels.masks.window import Window, window_start
from ..kernels.plan.spec import RulePlanSpec
from ..settings.fields import setting
from .sparse.core import SparseCore
from .sparse.method import SparseMethod, first_steps, tiled, tokens_or_tiles

AXES = "tokens along (t,) h, w"
SIZES = "tokens or shares along (t,) h, w"
STEPS = (2, 8, 8)  # of strides that are shares: the edges of blocks


@dataclass(frozen=True)
class GNA(SparseMethod):
    """Windows of `window` tokens that move in steps of `stride`, among tokens `dilation` apart.

    Each takes three numbers `(t, h, w)`, or two, `(h, w)`, for images. Text sees all and is seen by all.

    Windows and strides may be shares of an axis, as fractions: 0.3125 of 256 tokens are 80. Then they grow
    with the grid. A share of a stride becomes the closest multiple of a block's edge (2 frames, 8 rows, 8
    columns). A share of a window becomes the least odd number of strides that covers it, which keeps it in
    step with blocks. Both stay within the axis.

    `reduce="token"` is exact at any size. `"block"` keeps or drops complete tiles of tokens, without checks
    inside, which is cheaper and rougher, and takes no dilation. A tile has 8 x 16 tokens for images, 2 x 8 x
    8 for video. `"block"` is Sliding Tile Attention if a window has an odd number of tiles and `stride` is a
    tile. With the default stride of one token it keeps more tiles. A window of one tile on 4 x 16 x 16 tokens
    keeps 0.406 instead of 0.125 of the pairs.

    Raises `MethodError` for windows that do not fit the grid and strides above the window.
    """

    name: ClassVar[str] = "gna"

    window: Sequence[int | float] = setting(
        (), SIZES, "size of the window; the size of the axis hides nothing", bounds=(0, None)
    )
    stride: Sequence[int | float] = setting(
        (1, 1, 1), SIZES, "tokens that share a window; multiples of a tile are fast", bounds=(0, None)
    )
    dilation: Sequence[int] = setting(
        (1, 1, 1), AXES, "distance of neighbouring tokens of a window", bounds=(1, None)
    )

    reduce: Literal["token", "block"] = tokens_or_tiles()
    dense_steps: int | float = first_steps(0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.window:
            raise MethodError(
                "GNA needs a window, in tokens or shares of the axes (t, h, w), and got none; a third to a "
                "half of each is usual, as in window=[0.4, 0.4]."
            )
        for name in ("window", "stride", "dilation"):
            value = tuple(getattr(self, name))
            if len(value) not in (2, 3):
                raise MethodError(
                    f"GNA {name} takes three numbers (t, h, w), or two (h, w) for images, got {len(value)}."
                )
            object.__setattr__(self, name, (1,) * (3 - len(value)) + value)
        for axis, w, s, d in zip("thw", self.window, self.stride, self.dilation, strict=True):
            for name, size in (("window", w), ("stride", s)):
                if isinstance(size, float) and not 0 < size <= 1:
                    raise MethodError(
                        f"GNA {name} is a whole number of tokens, or a share of an axis above 0.0 and not "
                        f"above 1.0, got {size} on axis {axis}; write 24 for 24 tokens, 0.3 for 30 %."
                    )
            if isinstance(w, float) != isinstance(s, float):
                continue  # they are compared on a grid
            if not (0.0 if isinstance(s, float) else 1) <= s <= w:
                raise MethodError(
                    f"GNA stride must lie between 1 and the window, got stride {s} and window {w} on axis "
                    f"{axis}; stride = window is blocked attention."
                )
            if d < 1:
                raise MethodError(
                    f"GNA dilation must be 1 or more, got {d} on axis {axis}; 1 leaves no gaps in a window."
                )

        if self.reduce == "block" and max(self.dilation) > 1:
            raise MethodError(
                f"GNA keeps whole tiles, which hold all groups of a dilation, got dilation {self.dilation} "
                "with reduce='block'; leave the dilation at 1, or use reduce='token'."
            )

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return SparseCore(self, site, run, inner)

    def rule(self, grid: Grid) -> Window:
        """Make the windows on a grid; raises `MethodError` if they do not fit."""
        try:
            return Window(grid, *self.sizes(grid), self.dilation)
        except ValueError as error:
            raise MethodError(f"GNA: {error}") from error

    def sizes(self, grid: Grid) -> tuple[Grid, Grid]:
        """Return window and stride on a grid, in tokens."""
        pairs = [_tokens(*axis) for axis in zip(grid, self.window, self.stride, STEPS, strict=True)]
        window, stride = zip(*pairs, strict=True)
        return window, stride

    def check(self, grid: Grid) -> None:
        self.rule(grid)

    def plan_spec(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> RulePlanSpec:
        """Specify a plan in tiles of 8 x 16 for images, 2 x 8 x 8 for video."""
        return tiled(self.rule(grid), grid, text, text_rows, tile, snap=self.reduce == "block")

    def nearest(self, grid: Grid, tile: tuple[Grid, Grid], text: int = 0) -> dict[str, Any]:
        """Find the closest sizes, and settings with which every visited block is FULL.

        These are the closest window with its smallest stride, and the dilation if the method has one. Along
        an axis on which a tile has several tokens, the tile holds several groups of a dilation, so the
        dilation is 1 there.
        """
        sizes = super().nearest(grid, tile, text)
        if self.reduce == "block":
            return sizes
        axes = zip(sizes["grid"], self.sizes(sizes["grid"])[0], self.dilation, *tile, strict=True)
        window, stride, dilation = zip(*(_fit(*axis) for axis in axes), strict=True)
        spread = {"dilation": dilation} if max(self.dilation) > 1 else {}
        return sizes | {"window": window, "stride": stride} | spread


def _tokens(length: int, window: int | float, stride: int | float, step: int) -> tuple[int, int]:
    """Return the tokens of a window and of a stride on an axis, for those that are shares of it."""
    if isinstance(stride, float):
        stride = min(max(round(stride * length / step), 1) * step, length)
    if isinstance(window, int):
        return window, stride
    stride = min(stride, length)
    most = (length // stride - 1) // 2 * 2 + 1  # the largest odd number of strides
    odd = min(max(math.ceil((window * length / stride - 1) / 2 - 1e-9), 0) * 2 + 1, most)
    return length if window == 1 else max(odd * stride, min(2, length), stride), stride


def _fit(length: int, window: int, dilation: int, q_tile: int, k_tile: int) -> tuple[int, int, int]:
    """Find the window closest to `window` on one axis that keeps every tile complete.

    Returns it with the smallest stride that does so, and the dilation. Both tiles divide the length of the
    axis, so a window of that length is always possible.
    """
    if q_tile == k_tile == 1:
        return min(window, length // dilation), 1, dilation
    windows = sorted(range(k_tile, length + 1, k_tile), key=lambda w: abs(w - window))
    fits = (
        (w, s, 1) for w in windows if w > 1 for s in range(1, w + 1) if _covers(length, w, s, q_tile, k_tile)
    )
    return next(fits)


def _covers(length: int, window: int, stride: int, q_tile: int, k_tile: int) -> bool:
    """Return whether the queries of each tile share a window that begins with a tile of keys."""
    start = window_start(torch.arange(length), length, window, stride).view(-1, q_tile)
    return bool((start == start[:, :1]).all()) and bool((start % k_tile == 0).all())
