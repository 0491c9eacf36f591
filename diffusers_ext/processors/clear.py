"""CLEAR: image tokens attend to a disk around themselves, to the text, and to pooled tokens of the picture.

Paper: Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up" (arXiv
2412.16112). The rule is in `kernels.masks.disk`, the pooled tokens in `processors.sparse.pooled`. Checkpoints
distilled with it need no dense steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core import Core, Layout, RunContext, Site
from ..errors import MethodError
from ..kernels.geometry import Grid
from ..kernels.masks.disk import Disk
from ..kernels.plan.spec import RulePlanSpec
from ..settings.fields import setting
from .sparse import pooled
from .sparse.core import SparseCore
from .sparse.method import SparseMethod, tiled, tokens_or_tiles
from .sparse.nearest import aligned_frame, aligned_text
from .sparse.placement import PlacedPlan


@dataclass(frozen=True)
class CLEAR(SparseMethod):
    """Linear attention for images: a token sees those within a radius.

    The rule is `(y_i - y_j)^2 + (x_i - x_j)^2 < radius^2` on the grid of tokens.

    Text sees all tokens and is seen by all. With `downsample`, image tokens also see one pooled token for
    each cell of `downsample x downsample` tokens, even if the disk shows the cell already. Text does not see
    pooled tokens. Key and value of a pooled token are weighted sums over the cell. `weights` is a file with
    the weights of a distilled model (written by `pooled.write`). `backend="auto"` leaves small pictures
    dense, hence without pooled tokens. Name a back-end for models that were trained with them.

    `train_tokens` is proportional attention for sizes beyond training. If a sequence has S > `train_tokens`
    tokens, its scale is `sqrt(log(S) / log(train_tokens) / D)` in place of `1 / sqrt(D)`. S includes text and
    excludes pooled tokens. The scale also holds in dense steps and for text. Set `train_tokens` to the length
    of the longest sequence in training. For modules with shorter sequences it is reduced: to a fourth for
    each level of a U-Net below its finest attention, and by the text if attention is among image tokens
    alone. With pooled tokens the published code has `log(10 S)`, for which it gives no reason. Here the rule
    is the same with and without them.

    `reduce="token"` is the disk at any size. `"block"` keeps or drops complete tiles of tokens, without
    checks inside, which is cheaper and rougher.

    Raises `MethodError` for settings out of range and for a weights file that does not fit the model. Raises
    `UnsupportedError` for video and for grids that `downsample` does not divide.
    """

    name: ClassVar[str] = "clear"

    radius: int = setting(16, "tokens", "radius of the disk; 1 is the token alone", bounds=(1, 2048))
    downsample: int = setting(
        0,
        "tokens",
        "edge of the cells that far tokens stand for; 4 is published, 0 leaves them out",
        bounds=(0, 64),
    )
    weights: str | None = setting(
        None,
        "safetensors file",
        "learned weights of far tokens, one square per module; the mean when left out",
        file=True,
    )
    train_tokens: int | None = setting(
        None,
        "tokens",
        "longest sequence of training, text included; beyond, attention is sharpened; 4608 for "
        "FLUX.1 at 1024 px, 4096 for the finest level of Stable Diffusion 1 at 512 px",
        bounds=(2, None),
    )

    reduce: Literal["token", "block"] = tokens_or_tiles()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.radius <= 2048:
            raise MethodError(
                f"CLEAR radius must be 1 to 2048 tokens, got {self.radius}; 8, 16 and 32 are published."
            )
        if self.downsample != 0 and not 2 <= self.downsample <= 64:
            raise MethodError(
                f"CLEAR downsample must be 2 to 64 tokens, got {self.downsample}; 4 is published, 0 leaves "
                "far tokens out."
            )
        if self.weights is not None and not self.downsample:
            raise MethodError(
                f"CLEAR weights are those of far tokens, got {self.weights!r} without any; set downsample=4."
            )
        if self.train_tokens is not None and self.train_tokens < 2:
            raise MethodError(
                f"CLEAR train_tokens must be 2 or more, got {self.train_tokens}; None keeps the usual scale."
            )

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select sites as `SparseMethod` does, and check that there are weights for all of them."""
        picked = super().select(sites)
        if self.weights is not None:
            pooled.read(self.weights, picked, self.downsample)
        return picked

    def bind(self, site: Site, run: RunContext, inner: Core) -> "ClearCore":
        return ClearCore(self, site, run, inner)

    def refuses(self, grid: Grid) -> str | None:
        """Return why a video, or a grid that cells do not fill, is refused."""
        if grid[0] != 1:
            return (
                f"CLEAR needs one image, got a grid of {grid[0]} x {grid[1]} x {grid[2]} tokens (frames, "
                "rows, columns); Radial (radial) and GNA (gna) are for video"
            )
        if not (fits := self.fitting(grid)):
            return None
        return (
            f"CLEAR downsample={self.downsample} needs rows and columns that {self.downsample} divides, got "
            f"{grid[1]} x {grid[2]} tokens; the nearest are {' and '.join(f'{h} x {w}' for _, h, w in fits)} "
            "tokens"
        )

    def fitting(self, grid: Grid) -> list[Grid]:
        """Find the next smaller and larger grids that cells fill.

        There are none for video, and none if cells fill this grid.
        """
        edge = self.downsample if grid[0] == 1 and self.downsample else 1
        below, above = [n // edge * edge for n in grid[1:]], [-(-n // edge) * edge for n in grid[1:]]
        return [(1, *sides) for sides in (below, above) if min(sides)] if below != above else []

    def nearest(self, grid: Grid, tile: tuple[Grid, Grid], text: int = 0) -> dict[str, Any]:
        """Find sizes that are filled by cells as well as by blocks."""
        if not self.downsample:
            return super().nearest(grid, tile, text)
        edges = tuple(math.lcm(q, k, self.downsample) for q, k in list(zip(*tile, strict=True))[1:])
        sides = aligned_frame(*grid[1:], edges, math.prod(tile[1]) * self.downsample**2)
        return {"grid": (1, *sides)} | aligned_text(text, tile) if sides else {}

    def plan_spec(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> RulePlanSpec:
        """Specify a plan in tiles of 8 x 16, which fit a disk better than runs of a row."""
        cells = math.prod(grid) // self.downsample**2 if self.downsample else 0
        snap = self.reduce == "block"
        return tiled(Disk(self.radius), grid, text, text_rows, tile, cells, snap)


class ClearCore(SparseCore):
    """Adds pooled tokens behind the keys of a plan.

    `spatial_weight [downsample, downsample]`, or `None` for the mean, may be replaced at any time. An
    `nn.Parameter` gets gradients. `session.cores(method)` returns the cores.
    """

    method: CLEAR

    def __init__(self, method: CLEAR, site: Site, run: RunContext, inner: Core) -> None:
        super().__init__(method, site, run, inner)
        self.spatial_weight: Tensor | None = None
        if method.weights is not None:
            self.spatial_weight = pooled.read(method.weights, [site], method.downsample)[site]

    def begin_call(self, like: Tensor) -> None:
        train = self.method.train_tokens
        if train is not None and train < (least := 2 * 4**self.site.level + self._text()):
            raise MethodError(
                f"CLEAR train_tokens counts the longest sequence of training, text included, got {train}, "
                f"which leaves {self.site.path} fewer than 2 tokens; set {least} or more for this module, or "
                "None for the usual scale."
            )
        super().begin_call(like)
        if self.spatial_weight is not None and not isinstance(self.spatial_weight, nn.Parameter):
            self.spatial_weight = self.spatial_weight.to(like.device)  # once, not in each call

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        if self.method.train_tokens is not None:
            train = (self.method.train_tokens - self._text()) / 4**self.site.level
            if train < q.shape[1]:
                q = q * math.sqrt(math.log(q.shape[1]) / math.log(train))
        return super().__call__(q, k, v, mask, layout)

    def _text(self) -> int:
        """Count the text tokens that `train_tokens` includes and the sequence here lacks."""
        joint = self.run.layout
        return 0 if self.site.kind != "self" or joint is None else joint.text.stop - joint.text.start

    def in_order(self, x: Tensor, placed: PlacedPlan, layout: Layout) -> Tensor:
        keys = super().in_order(x, placed, layout)
        if not self.method.downsample:
            return keys
        cells = pooled.pool(x[:, layout.vision], placed.grid, self.method.downsample, self.spatial_weight)
        return torch.cat([keys, cells], dim=1)
