"""Orders and coordinates of tokens say which grid cell is at which place of a sequence.

A grid `(t, h, w)` is numbered in raster order, `w` fastest. An *order* is an index tensor `[P]`: the raster
number of the token at each place, or -1 for padding. Coordinates travel packed, one int32 a token.
"""

import math

import torch
from torch import Tensor

Grid = tuple[int, int, int]

TEXT = -1  # packed coordinate of a text token: sees all and is seen by all
PAD = -2  # packed coordinate of padding: seen by none
LIMITS = (511, 2047, 2047)  # t:10 | h:11 | w:11 bits, the sign bit belongs to the sentinels


def raster(grid: Grid) -> Tensor:
    """Order tokens row after row, frame after frame: `[t * h * w]`."""
    return torch.arange(math.prod(grid))


def tile_major(grid: Grid, tile: Grid, pad: bool = False) -> Tensor:
    """Order tokens tile after tile, in raster order inside each.

    Tiles at the last edges are cut off by the grid. `pad=True` fills them up with -1, so that every
    `prod(tile)` places are one tile. Otherwise short tiles follow each other without gaps, and the length is
    that of the grid.
    """
    t, h, w = grid
    counts = [-(-size // edge) for size, edge in zip(grid, tile, strict=True)]
    tt, th, tw = (torch.arange(n * edge).view(n, edge) for n, edge in zip(counts, tile, strict=True))
    ct = tt[:, None, None, :, None, None]
    ch = th[None, :, None, None, :, None]
    cw = tw[None, None, :, None, None, :]
    number = torch.where((ct < t) & (ch < h) & (cw < w), (ct * h + ch) * w + cw, -1).flatten()
    return number if pad else number[number >= 0]


def inverse(order: Tensor) -> Tensor:
    """Find the place of every token: `order[inverse(order)] == arange(tokens)`."""
    places = (order >= 0).nonzero().flatten()
    out = torch.empty_like(places)
    out[order[places]] = places
    return out


def coordinates(order: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Return `t, h, w` of the token at each place, each `int32 [P]`; -1 for padding."""
    _, h, w = grid
    token, absent = order.int(), order < 0
    row = token // w
    frame = row // h
    return tuple(x.masked_fill_(absent, -1) for x in (frame, row - frame * h, token - row * w))


def pack(t: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Pack coordinates into one int32 a token, `t << 22 | h << 11 | w`; the caller keeps within `LIMITS`."""
    return (t.to(torch.int32) << 22) | (h.to(torch.int32) << 11) | w.to(torch.int32)


def coded(order: Tensor, grid: Grid, text: int = 0) -> Tensor:
    """Pack the coordinates of an order, with PAD for padding and TEXT behind: `[P + text]`."""
    code = pack(*coordinates(order, grid)).masked_fill(order < 0, PAD)
    return torch.cat([code, code.new_full((text,), TEXT)])


def unpack(code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unpack `t, h, w`; the result is meaningless for the sentinels."""
    return code >> 22, (code >> 11) & 2047, code & 2047


def check_grid(grid: Grid) -> None:
    """Raise `ValueError` if coordinates do not fit into their bits."""
    if any(not 1 <= size <= limit + 1 for size, limit in zip(grid, LIMITS, strict=True)):
        raise ValueError(
            f"A plan addresses grids of 1 to {' x '.join(str(n + 1) for n in LIMITS)} tokens (t, h, w), got "
            f"{' x '.join(map(str, grid))}; choose a smaller size."
        )
