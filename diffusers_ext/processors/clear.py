"""CLEAR: image tokens attend to a disk around themselves and to the text.

Paper: Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up" (arXiv
2412.16112). The rule is in `kernels.masks.disk`; checkpoints distilled with it need no dense steps.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import MethodError
from ..kernels.masks.disk import Disk
from ..kernels.plan import Recipe
from .sparse import Grid, SparseMethod, tiled


@dataclass(frozen=True)
class CLEAR(SparseMethod):
    """Linear attention for images: `(y_i - y_j)^2 + (x_i - x_j)^2 < radius^2` on the grid of tokens.

    Text sees all and is seen by all. Raises `MethodError` for a radius below 1, `UnsupportedError` for video.
    """

    name: ClassVar[str] = "clear"

    radius: int = field(
        default=16,
        metadata={
            "unit": "tokens",
            "low": 1,
            "high": 256,
            "help": "radius of the disk; 1 is the token alone",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius < 1:
            raise MethodError(
                f"CLEAR radius must be at least 1 token, got {self.radius}; 8, 16 and 32 are published."
            )

    def refuses(self, grid: Grid) -> str | None:
        """Video."""
        if grid[0] == 1:
            return None
        return (
            f"CLEAR needs one image, got a grid of {grid[0]} x {grid[1]} x {grid[2]} tokens (frames, rows, "
            "columns); Radial (radial) and GNA (gna) are for video"
        )

    def recipe(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> Recipe:
        """Tiles of 8 x 16, which a disk covers better than runs of a row."""
        return tiled(Disk(self.radius), grid, text, text_rows, tile)
