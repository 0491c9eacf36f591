"""Radial attention for video: a band of visible tokens that narrows with the distance between two frames.

Paper: Li et al., "Radial Attention: O(n log n) Sparse Attention with Energy Decay for Long Video Generation"
(arXiv 2506.19852). Formula and published code differ; both are in `kernels.masks.band`, the block rule in
`band_blocks`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..core import Core, RunContext, Site
from ..errors import MethodError
from ..kernels.geometry import Grid
from ..kernels.masks.band import Band, paper_reach, release_reach
from ..kernels.plan.spec import RulePlanSpec
from ..settings.fields import setting
from .sparse.core import SparseCore
from .sparse.method import SparseMethod, first_steps, refined
from .sparse.nearest import MOST, aligned_frame, aligned_text


@dataclass(frozen=True)
class Radial(SparseMethod):
    """A band that halves with every doubling of the frame distance, and sink frames that all tokens see.

    `mode="release"` follows the published code and has a `decay`. It is the default, because the published
    videos were made with it. `"paper"` is the formula. `reduce="token"` is exact at any size. `"block"` keeps
    or drops complete blocks as the code does, which is cheaper and rougher. Raises `MethodError` for settings
    out of range, `UnsupportedError` for images.

    There are three departures from the published code. Frames of fewer than 128 tokens see all of their
    neighbouring frames, which the code thins out. A shorter last block counts the rows that it has; the code
    takes full blocks only. The last piece of a frame that begins inside a block follows the rule of the
    others; the code can drop it.
    """

    name: ClassVar[str] = "radial"

    decay: float = setting(
        1.0,
        "factor on the band",
        "0.95 HunyuanVideo, 0.2 Wan 2.1, 0.8 Wan 2.2; the mode paper has none",
        bounds=(0.0, 4.0),
    )
    mode: Literal["release", "paper"] = setting(
        "release", "rule", "band of the published code, or of the formula in the paper"
    )
    sink_frames: int = setting(
        1, "frames", "first frames that all tokens see; the code has 0 for Hunyuan", bounds=(0, None)
    )
    reduce: Literal["token", "block"] = setting(
        "token", "rule", "check tokens inside blocks, or keep whole blocks by majority"
    )
    block: int = setting(128, "tokens", "block of the plan, and least width of a band", bounds=(1, 256))

    dense_steps: int | float = first_steps(0.24)  # 12 of 50 in the published runs

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay <= 4:
            raise MethodError(
                f"Radial decay must be above 0 and not above 4, got {self.decay}; 0.2 to 1 is usual."
            )
        if self.mode == "paper" and self.decay != 1.0:
            raise MethodError(
                f"Radial has a decay in mode='release' only, got decay={self.decay} with mode='paper'; drop "
                "one."
            )
        if self.sink_frames < 0 or not 1 <= self.block <= 256:
            raise MethodError(
                f"Radial needs sink_frames of 0 or more and a block of 1 to 256 tokens, got "
                f"{self.sink_frames} and {self.block}; 1 and 128 are usual."
            )

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return SparseCore(self, site, run, inner)

    def refuses(self, grid: Grid) -> str | None:
        """Return why images, or more sink frames than frames, are refused."""
        if grid[0] == 1:
            return (
                f"Radial thins out frames and needs two or more, got one of {grid[1]} x {grid[2]} tokens; "
                "CLEAR (clear) and GNA (gna) are for images"
            )
        if self.sink_frames > grid[0]:
            return (
                f"Radial sink_frames must not exceed the frames, got {self.sink_frames} of {grid[0]}; 0 or 1 "
                "is published"
            )
        return None

    def rule(self, grid: Grid) -> Band:
        """Make the band on a grid."""
        frames, per_frame = grid[0], grid[1] * grid[2]
        if self.mode == "release":
            reach = release_reach(frames, per_frame, self.decay, self.block)
        else:
            # Blocks cannot distinguish bands that are narrower than a block.
            reach = paper_reach(frames, per_frame, self.block if self.reduce == "block" else 1)
        return Band(reach, grid[2], self.sink_frames)

    def plan_spec(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> RulePlanSpec:
        """Specify a plan in raster order, in which a band is contiguous.

        Blocks of keys are as large as those of queries, or half as large, whichever should be faster.
        """
        if tile is not None:
            raise MethodError(
                "Radial numbers the tokens of a frame row by row and takes no tile; leave it out."
            )
        whole, sizes = self.reduce == "block", (self.block, self.block)
        spec = RulePlanSpec(self.rule(grid), grid, text, *sizes, text_rows=text_rows, snap=whole)
        return spec if whole or self.block < 128 else refined(spec)

    def nearest(self, grid: Grid, tile: tuple[Grid, Grid], text: int = 0) -> dict[str, Any]:
        """Find the closest frame size whose tokens fill blocks; `tile` holds runs of a block."""
        sides = aligned_frame(*grid[1:], (1, 1), self.block)
        return {"grid": (min(grid[0], MOST[0]), *sides)} | aligned_text(text, tile)
