"""`diffusers-ext plan`: density, padding and speed-up of a sparse method at a size, before anything runs."""

import json
import re
from typing import Annotated, Any

import typer

from .options import Height, Preset, Settings, Width


def plan(
    target: Annotated[str, typer.Argument(help="Preset, model, or a grid of tokens as 21x45x80.")],
    method: Annotated[str, typer.Option("--method", help="Sparse method.")],
    settings: Settings = None,
    preset: Preset = False,
    height: Height = None,
    width: Width = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Frames of a video.")] = None,
    text: Annotated[int | None, typer.Option("--text", help="Text tokens in the sequence.")] = None,
    tile: Annotated[
        str | None, typer.Option("--tile", metavar="TxHxW[,TxHxW]", help="Tiles of queries and of keys.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Tell what a sparse method would do at a size; no model runs."""
    from ..forecast import plan as forecast
    from ..presets import of_model
    from ..settings import build

    (chosen,) = build([method], settings or [], of_model(target).settings if preset else None)
    grid = _numbers(target)
    size = {"height": height, "width": width, "num_frames": frames}
    if grid is None:
        size["text"] = text
    found = forecast(_target(target, grid, text or 0), chosen, tile=_tiles(tile), **size)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))


def _target(name: str, grid: tuple[int, ...] | None, text: int) -> Any:
    from ..presets import of_name
    from ..sizes import Grid
    from .options import open_model

    if grid is not None:
        return Grid(*(1,) * (3 - len(grid)), *grid, text=text)
    return name if of_name(name) else open_model(name, "cpu")


def _numbers(text: str) -> tuple[int, ...] | None:
    """`21x45x80` or `64x64`, else `None`."""
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
