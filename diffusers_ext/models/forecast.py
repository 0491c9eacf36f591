"""Forecast what a sparse method would do at a size, before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import MethodError, UnsupportedError
from ..kernels.block_sparse import gains
from ..kernels.plan.plan import PlanSpec
from ..processors.sparse.method import SparseMethod
from ..settings.fields import fit
from .presets import preset, tokens_of
from .sizes import Grid, Tokens

Tile = tuple[int, int, int]
SIZES = ("grid", "text", "height", "width", "num_frames")


@dataclass(frozen=True)
class Forecast:
    """The forecast of a method on a grid.

    `token_density` is the number of visible pairs of tokens over that of dense attention. `block_density` is
    the same for the blocks that a kernel visits, padding included. `far` counts CLEAR's pooled tokens. They
    are extra keys, whose pairs and blocks are added, so either density may exceed 1. `full_share` is the
    share of visited blocks without checks inside. `padded_tokens` fill the last blocks and short tiles.

    `predicted_speedup` of attention is for a kernel as fast as the dense one; real kernels reach part of it.
    `expected_speedup` is what they should reach on `device`, which says in parentheses how that is known.
    Checks inside blocks, attention from text, and bringing tokens into the order of the plan in every layer
    are in it. FLUX.1 saves the last, so it may gain more. `ideal_speedup` would need blocks of one token.
    `memory_bytes` is the memory that a session needs for the plan, once for all layers and steps.

    `nearest` holds the closest sizes without padding. For GNA it also has the closest settings with which no
    visited block needs a check, if all levels of a U-Net take them. Disks (CLEAR) and bands (Radial) leave
    checks at any size, except with reduce="block". It is empty if nothing is close.

    `note` says if no gain is expected, so that `backend="auto"` stays dense. It also says if no session takes
    the grid, and if padding adds more than 15 %.
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
    expected_speedup: float
    device: str
    memory_bytes: int
    nearest: dict[str, Any]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        grid = " x ".join(map(str, self.grid))
        lines = [
            f"{self.method} on {grid} grid tokens and {self.text} text tokens, {self.tokens} together"
            + (f", and {self.far} far ones" if self.far else ""),
            f"  density      {self.token_density:.4f} of the token pairs, {self.block_density:.4f} of the "
            f"blocks, {self.full_share:.0%} of those full",
            f"  attention    {self.predicted_speedup:.2f}x at best, {self.expected_speedup:.2f}x expected on "
            f"{self.device}, {self.ideal_speedup:.2f}x without blocks",
            f"  padding      {self.padded_tokens} tokens",
            f"  plan         {self.memory_bytes / 2**20:.1f} MiB",
        ]
        rest = {"nearest": _named(self.nearest), "note": self.note}
        return "\n".join(lines + [f"  {name:<12} {value}" for name, value in rest.items() if value])


def plan(
    target: Any,
    method: SparseMethod | str,
    *,
    tile: tuple[Tile, Tile] | None = None,
    device: str | None = None,
    **size: int | None,
) -> Forecast:
    """Forecast what `method` would do on `target`, without running a model.

    `target` is a pipeline, the name of a preset or of a checkpoint that it is for, or a `Grid(t, h, w,
    text=0)`. A `method` given by its name has the settings of `preset(target, method)`. `size` is `height`
    and `width` in px, `num_frames`, `text` tokens; values left out are the usual ones of the model. `tile`
    holds the tiles of queries and of keys, each `(t, h, w)`. `device` is what the speed-up is expected on:
    cpu, a100, h100, h200, b200 or a GPU of this machine. Left out, it is that GPU, or an H100 without one.

    The forecast for a U-Net is that of its finest attention, but the method has to fit the others as well.
    Raises `MethodError` for settings and sizes that do not fit, and for unknown devices.
    """
    if isinstance(method, str):
        method = preset(target, method)
    if not isinstance(method, SparseMethod):
        name = getattr(method, "name", type(method).__name__)
        raise MethodError(f"plan() takes a sparse method such as GNA(...) or CLEAR(...), got {name}.")
    tokens = None if isinstance(target, Grid) else tokens_of(target, method)
    if tokens is None and any(value is not None for value in size.values()):
        raise MethodError(f"A Grid is a size already, got {', '.join(size)} as well; leave it out.")
    grids = {0: target} if tokens is None else tokens.grids(size)
    for level, grid in reversed(grids.items()):  # a size that fits the coarsest fits all
        if (why := method.refuses(grid.shape)) is not None:
            raise UnsupportedError(f"{why}{_in_px(tokens, method.fitting(grid.shape), level)}.")
    tile, device = _tile(tile), _class(device)
    grid, *coarser = grids.values()
    for other in coarser:
        method.check(other.shape)

    # Text queries run dense either way, so a session decides without them.
    decisive = method.plan_spec(grid.shape, grid.text, False, tile)
    spec = decisive.changed(text_rows=True)
    stats = spec.stats
    backend = method.backend_on(device)
    share = gains.share_of_dense(decisive, backend, device)
    rows, columns = -(-stats.s_q // spec.block_q), -(-stats.s_kv // spec.block_k)
    nearest = _nearest(method, grid, tokens, tile, _tiles(spec))
    padded = max(rows * spec.block_q, columns * spec.block_k - spec.extra_keys) - stats.tokens
    remarks = method.remark(decisive, device), _padding(padded / stats.tokens, nearest)
    return Forecast(
        method=method.name,
        grid=grid.shape,
        text=grid.text,
        tokens=stats.tokens,
        far=spec.extra_keys,
        token_density=spec.pairs / stats.tokens**2,
        block_density=stats.block_density,
        full_share=stats.full_share,
        padded_tokens=padded,
        ideal_speedup=stats.tokens**2 / spec.pairs,
        predicted_speedup=stats.tokens**2 / stats.work,
        expected_speedup=stats.tokens / (spec.grid_tokens * share + grid.text),  # text queries run dense
        device=f"{gains.TITLES[device]} ({gains.costs(backend, device).source})",
        memory_bytes=decisive.plan_bytes + _place_bytes(decisive),
        nearest=nearest,
        note="; ".join(filter(None, remarks)),
    )


def _nearest(
    method: SparseMethod,
    grid: Grid,
    tokens: Tokens | None,
    tile: tuple[Tile, Tile] | None,
    tiles: tuple[Tile, Tile],
) -> dict[str, Any]:
    """Return a method's advice for the `tiles` of a plan, as far as all levels of the model take it."""
    advice = _advice(method, grid, tile, tiles)
    settings = {name: advice.pop(name) for name in [*advice] if hasattr(method, name)}
    if not advice:
        return {}
    shape, text = advice["grid"], advice.get("text", 0)
    grids = [Grid(*shape, text)]
    if tokens is not None:
        if not _made(tokens, tokens.size(shape)):
            return {}
        advice |= tokens.size(shape)
        grids += list(tokens.grids(tokens.size(shape) | {"text": text}).values())[1:]
    for changes in (settings, {}):
        other = replace(method, **changes)
        if all(_takes(other, one) for one in grids):
            return advice | changes
    return {}


def _advice(
    method: SparseMethod, grid: Grid, tile: tuple[Tile, Tile] | None, tiles: tuple[Tile, Tile]
) -> dict[str, Any]:
    """Return a method's advice; asked again if it has settings and their plan has other tiles."""
    advice = method.nearest(grid.shape, tiles, grid.text)
    settings = {name: value for name, value in advice.items() if hasattr(method, name)}
    if not settings or tile is not None:
        return advice
    other = replace(method, **settings)
    there = Grid(*advice["grid"], advice.get("text", 0))
    if not _takes(other, there):
        return advice
    others = _tiles(other.plan_spec(there.shape, there.text, False))
    return advice if others == tiles else method.nearest(grid.shape, others, grid.text)


def _tiles(spec: PlanSpec) -> tuple[Tile, Tile]:
    """Return the tiles of queries and of keys; a block of the raster is one."""
    return spec.q_tile or (1, 1, spec.block_q), spec.k_tile or (1, 1, spec.block_k)


def _takes(method: SparseMethod, grid: Grid) -> bool:
    try:
        method.check(grid.shape)
    except MethodError:
        return False
    return method.refuses(grid.shape) is None


def _place_bytes(spec: PlanSpec) -> int:
    """Count the bytes of the numbers that bring tokens into plan order and back, int64."""
    stats, order = spec.stats, spec.q_order
    # If queries and keys have one order, and it is not raster order, an entire call can run in it.
    reorders = not spec.extra_keys and order.equal(spec.k_order)
    reorders = reorders and order.min() >= 0 and (order.diff() != 1).any()
    return 8 * (stats.s_q * (2 if reorders else 1) + stats.s_kv - spec.extra_keys + spec.grid_tokens)


def _padding(share: float, nearest: dict[str, Any]) -> str:
    if share <= 0.15:
        return ""
    sizes = _named({name: value for name, value in nearest.items() if name in SIZES})
    return f"padding adds {share:.0%} to the tokens" + (
        f", the nearest size without is {sizes}" if sizes else ""
    )


def _named(nearest: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in nearest.items())


def _in_px(tokens: Tokens | None, grids: list[Tile], level: int) -> str:
    """Return the sizes of grids in px, to end a sentence, if it is known what a pixel is."""
    if tokens is None or not grids:
        return ""
    sizes = [size for grid in grids if _made(tokens, size := tokens.size(grid, level))]
    return f" ({' and '.join('{height} x {width}'.format(**size) for size in sizes)} px)" if sizes else ""


def _made(tokens: Tokens, size: dict[str, int]) -> bool:
    return all(tokens.why_not(name, value) is None for name, value in size.items())


def _class(device: Any) -> str:
    try:
        return gains.device_class(device)
    except ValueError as error:
        raise MethodError(str(error)) from error


def _tile(tile: Any) -> tuple[Tile, Tile] | None:
    if tile is None:
        return None
    try:
        tiles = fit(tile, Sequence[Sequence[int]], "tile")
    except ValueError:
        tiles = []
    fits = len(tiles) == 2 and all(len(edges) == 3 and min(edges) >= 1 for edges in tiles)
    if not fits or any(math.prod(edges) > 1024 for edges in tiles):
        raise MethodError(
            "A tile is ((t, h, w) of queries, (t, h, w) of keys) in whole numbers, with at most 1024 tokens "
            f"each, got {tile}; ((1, 8, 16), (1, 8, 16)) is usual for images."
        )
    return tuple(map(tuple, tiles))
