"""`plan`: what a sparse method would do at a size, before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .core import Method
from .errors import MethodError, UnsupportedError
from .presets import preset, tokens_of
from .sizes import Grid, Tokens
from .values import fit

Tile = tuple[int, int, int]


@dataclass(frozen=True)
class Forecast:
    """A method on a grid.

    `token_density`: pairs of tokens that see each other over those of dense attention; `block_density`: the
    same of the blocks that a kernel visits, padding included. `far` tokens are extra keys, whose pairs and
    blocks are added, so that either may exceed 1. `full_share`: visited blocks without checks inside;
    `padded_tokens` fill the last blocks and short tiles. `predicted_speedup` of attention is that of a kernel
    as fast as the dense one (real ones reach part of it), `ideal_speedup` would need blocks of one token;
    `note` says where a real one is expected to gain nothing, and `backend="auto"` to stay dense.
    `memory_bytes` are those of the plan, once for all layers and steps. `nearest` holds the closest sizes and
    settings without padding and checks.
    """

    method: str
    grid: Tile
    text: int
    tokens: int
    far: int
    token_density: float
    block_density: float
    full_share: float
    padded_tokens: int
    ideal_speedup: float
    predicted_speedup: float
    memory_bytes: int
    nearest: dict[str, Any]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        grid = " x ".join(map(str, self.grid))
        near = ", ".join(f"{name} {value}" for name, value in self.nearest.items())
        lines = [
            f"{self.method} on {grid} grid tokens and {self.text} text tokens, {self.tokens} together"
            + (f", and {self.far} far ones" if self.far else ""),
            f"  density      {self.token_density:.4f} of the token pairs, {self.block_density:.4f} of the "
            f"blocks, {self.full_share:.0%} of those full",
            f"  attention    {self.predicted_speedup:.2f}x at best, {self.ideal_speedup:.2f}x without blocks",
            f"  padding      {self.padded_tokens} tokens",
            f"  plan         {self.memory_bytes / 2**20:.1f} MiB",
            f"  nearest      {near}",
        ]
        return "\n".join(lines + ([f"  note         {self.note}"] if self.note else []))


def plan(
    target: Any, method: Method | str, *, tile: tuple[Tile, Tile] | None = None, **size: int | None
) -> Forecast:
    """What `method` would do on `target`: a pipeline, the name of a preset or of a checkpoint that it is for,
    or `Grid(t, h, w, text=0)`. A `method` given by its name has the settings of `preset(target, method)`.

    `size` is `height` and `width` in px, `num_frames`, `text` tokens; what is left out is the model's usual
    one. `tile` holds the tiles of queries and of keys, each `(t, h, w)`. No model runs. The forecast for a
    U-Net is that of its finest attention, but the method has to fit the others as well. Raises `MethodError`
    for settings and sizes that do not fit.
    """
    if isinstance(method, str):
        method = preset(target, method)
    if not hasattr(method, "recipe"):
        name = getattr(method, "name", type(method).__name__)
        raise MethodError(f"plan() takes a sparse method such as GNA(...) or CLEAR(...), got {name}.")
    tokens = None if isinstance(target, Grid) else tokens_of(target, method)
    if tokens is None and any(value is not None for value in size.values()):
        raise MethodError(f"A Grid is a size already, got {', '.join(size)} as well; leave it out.")
    grids = {0: target} if tokens is None else tokens.grids(size)
    for level, grid in reversed(grids.items()):  # a size that fits the coarsest fits all
        if (why := method.refuses(grid.shape)) is not None:
            raise UnsupportedError(f"{why}{_in_px(tokens, method.fitting(grid.shape), level)}.")
    tile = _tile(tile)
    grid, *coarser = grids.values()
    for other in coarser:
        method.recipe(other.shape, other.text)  # raises where the settings do not fit

    recipe = method.recipe(grid.shape, grid.text, True, tile)
    survey = recipe.survey()
    # Text queries run dense either way, so a session decides without them.
    decisive = method.recipe(grid.shape, grid.text, False, tile).survey() if grid.text else survey
    count = math.prod(grid.shape) + grid.text
    rows, columns = -(-survey.s_q // recipe.block_q), -(-survey.s_kv // recipe.block_k)
    tiles = (recipe.q_tile or (1, 1, recipe.block_q), recipe.k_tile or (1, 1, recipe.block_k))
    nearest = method.nearest(grid.shape, tiles)
    if tokens is not None:
        nearest |= tokens.size(nearest["grid"])
    places = survey.s_q + survey.s_kv
    return Forecast(
        method=method.name,
        grid=grid.shape,
        text=grid.text,
        tokens=count,
        far=recipe.far,
        token_density=recipe.pairs / count**2,
        block_density=survey.block_density,
        full_share=survey.full_share,
        padded_tokens=max(rows * recipe.block_q, columns * recipe.block_k - recipe.far) - count,
        ideal_speedup=count**2 / recipe.pairs,
        predicted_speedup=count**2 / survey.work,
        # lists and coordinates are int32, the places of tokens before and after the kernel int64
        memory_bytes=4 * (rows + 1 + survey.visited + places) + 8 * (places - recipe.far + count),
        nearest=nearest,
        note=method.remark(decisive),
    )


def _in_px(tokens: Tokens | None, grids: list[Tile], level: int) -> str:
    """The end of a sentence about grids, where it is known what a pixel is."""
    if tokens is None or not grids:
        return ""
    sizes = " and ".join("{height} x {width}".format(**tokens.size(grid, level)) for grid in grids)
    return f" ({sizes} px)"


def _tile(tile: Any) -> tuple[Tile, Tile] | None:
    if tile is None:
        return None
    try:
        whole = fit(tile, Sequence[Sequence[int]], "tile")
    except ValueError:
        whole = []
    fits = len(whole) == 2 and all(len(edges) == 3 and min(edges) >= 1 for edges in whole)
    if not fits or any(math.prod(edges) > 1024 for edges in whole):
        raise MethodError(
            "A tile is ((t, h, w) of queries, (t, h, w) of keys) in whole numbers, with at most 1024 tokens "
            f"each, got {tile}; ((1, 8, 16), (1, 8, 16)) is usual for images."
        )
    return tuple(map(tuple, whole))
