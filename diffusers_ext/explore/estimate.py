"""Estimate the memory that maps take before anything runs, and say what to leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from ..core import Site
from ..errors import MethodError
from ..families import latents
from ..models.sizes import cut_of

BYTES = 4  # of a number of a map, fp32
LIMIT_GIB = 1.0


def grids(pipe: Any, sites: Sequence[Site], call: Mapping[str, Any]) -> dict[Site, tuple[int, int, int]]:
    """Return the grid `(t, h, w)` of tokens at each site of `pipe(**call)`.

    Raises `MethodError` for a size that has none.
    """
    levels = tuple(sorted({site.halvings for site in sites}))
    known = latents.size(pipe, call)
    by_level = replace(cut_of(pipe), levels=levels).grids(known)
    return {site: by_level[site.halvings].shape for site in sites}


def steps_of(pipe: Any, call: Mapping[str, Any]) -> int:
    """Return the number of steps of `pipe(**call)`."""
    for name in ("timesteps", "sigmas"):
        if call.get(name) is not None:
            return len(call[name])
    return call.get("num_inference_steps") or latents.defaults(pipe).get("num_inference_steps") or 1


def map_bytes(grid_of: Mapping[Site, tuple[int, int, int]], words: int, steps: int, per_head: bool) -> int:
    """Return the bytes of all maps: one for each word, step and site, and for each head if `per_head`."""
    places = sum(prod(grid) * (site.heads if per_head else 1) for site, grid in grid_of.items())
    return BYTES * words * steps * places


def check(
    grid_of: Mapping[Site, tuple[int, int, int]], words: int, steps: int, per_head: bool, limit_gib: float
) -> int:
    """Return `map_bytes`; raises `MethodError` above `limit_gib`, with what would fit."""
    if not limit_gib > 0:
        raise MethodError(
            f"limit_gib is the memory for maps in GiB, above 0, got {limit_gib}; {LIMIT_GIB:g} is usual."
        )
    needed, limit = map_bytes(grid_of, words, steps, per_head), limit_gib * 2**30
    if needed <= limit:
        return needed
    ways = []
    if per_head and map_bytes(grid_of, words, steps, False) <= limit:
        ways.append("per_head=False")
    if (fit := int(steps * limit / needed)) >= 1:
        ways.append(f"at most {fit} of {steps} steps (steps=)")
    if (fit := int(len(grid_of) * limit / needed)) >= 1:
        ways.append(f"about {fit} of {len(grid_of)} layers (layers=)")
    if (fit := int(words * limit / needed)) >= 1:
        ways.append(f"at most {fit} of {words} words (words=)")
    ways.append(f"limit_gib={-(-needed // 2**28) / 4:g}")
    heads = " for each head" if per_head else ""
    choice = f"{', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else ways[0]
    raise MethodError(
        f"maps of {counted(words, 'word')} at {counted(steps, 'step')} in {counted(len(grid_of), 'layer')}"
        f"{heads} take {needed / 2**30:.2f} "
        f"GiB of memory, and the limit is {limit_gib:g}; pass {choice}."
    )


def counted(number: int, what: str) -> str:
    """Return a number with what it counts, in the plural unless it is 1."""
    return f"{number} {what}{'s' * (number != 1)}"
