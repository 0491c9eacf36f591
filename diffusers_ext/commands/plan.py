"""Run `diffusers-ext plan`: forecast density, padding and speed-up of a sparse method at a size."""

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .options import Height, Json, Preset, Settings, Width, chosen

MOST_PAIRS = 1 << 28  # pairs of blocks; a plan visits each, some twenty million a second on a CPU core


def plan(
    target: Annotated[str, typer.Argument(help="A preset, a model, or a grid of tokens as 21x45x80.")],
    method: Annotated[str, typer.Option("--method", help="A sparse method.")],
    settings: Settings = None,
    preset: Preset = None,
    height: Height = None,
    width: Width = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Number of frames of a video.")] = None,
    text: Annotated[int | None, typer.Option("--text", help="Number of text tokens in the sequence.")] = None,
    tile: Annotated[
        str | None, typer.Option("--tile", metavar="TxHxW[,TxHxW]", help="Tiles of queries and of keys.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Expect the speed-up on this: cpu, a100, h100, h200, b200 or cuda."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Forecast what a sparse method would do at a size; no model runs."""
    from ..models.checkpoint import Checkpoint
    from ..models.forecast import plan as forecast

    grid = _numbers(target)
    known = preset if grid is None else bool(preset)  # nothing is known for a grid
    (built,), notes = chosen(Checkpoint.unchecked(target), [method], settings or [], known)
    size = {"height": height, "width": width, "num_frames": frames}
    if grid is None:
        size["text"] = text
    model, tiles = _target(target, grid, text or 0), _tiles(tile)
    _check_blocks(model, built, tiles, size)
    found = forecast(model, built, tile=tiles, device=device, **size)
    for line in notes:
        typer.echo(line, err=True)  # added to the JSON
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))


def _target(name: str, grid: tuple[int, ...] | None, text: int) -> Any:
    from ..models.checkpoint import Checkpoint
    from ..models.presets import of_name
    from ..models.sizes import Grid

    if grid is not None:
        return Grid(*(1,) * (3 - len(grid)), *grid, text=text)
    return name if of_name(name) else Checkpoint.resolve(name).load("cpu")


def _check_blocks(
    target: Any, method: Any, tiles: tuple[tuple[int, ...], ...] | None, size: Mapping[str, int | None]
) -> None:
    """Raise `ValueError` if a plan would take minutes, naming the number of tokens that it can take."""
    from ..models.presets import tokens_of
    from ..models.sizes import Grid
    from ..processors.radial import Radial
    from ..processors.rectified import RectifiedSparse
    from ..processors.sparse.method import default_tiles

    grid = target if isinstance(target, Grid) else tokens_of(target, method).grid(size)
    tokens = math.prod(grid.shape) + grid.text
    # Short tiles follow each other without padding.
    if tiles is None and isinstance(method, (Radial, RectifiedSparse)):
        counts = [-(-tokens // method.block)] * 2
    else:
        counts = [_tile_count(grid.shape, grid.text, tile) for tile in tiles or default_tiles(grid.shape)]
    if (pairs := math.prod(counts)) > MOST_PAIRS:
        raise ValueError(
            f"plan looks at up to {MOST_PAIRS} pairs of blocks, got {pairs} for {tokens} tokens; choose a "
            f"smaller size, with such blocks one of at most {int(tokens * math.sqrt(MOST_PAIRS / pairs))}"
        )


def _tile_count(shape: tuple[int, ...], text: int, tile: tuple[int, ...]) -> int:
    edges = [max(edge, 1) for edge in tile]  # the forecast refuses others with a sentence
    counts = (-(-n // edge) for n, edge in zip(shape, edges, strict=True))
    return math.prod(counts) + -(-text // math.prod(edges))


def _numbers(text: str) -> tuple[int, ...] | None:
    """Read `21x45x80` or `64x64`; `None` for any other text."""
    return tuple(map(int, text.split("x"))) if re.fullmatch(r"\d+(x\d+){1,2}", text) else None


def _tiles(text: str | None) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    if text is None:
        return None
    tiles = [_numbers(part) for part in text.split(",")]
    if None in tiles or len(tiles) > 2:
        raise ValueError(
            f"--tile takes TxHxW, once or for queries and keys, got {text!r}; for example 1x8x16"
        )
    tiles = [(1,) * (3 - len(t)) + t for t in tiles]
    return tiles[0], tiles[-1]
