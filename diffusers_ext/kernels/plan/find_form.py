"""Find out whether a kernel can compute the rule of a plan from the first token of each block.

It can if every block is a box of the grid in raster order, or holds no token of the grid. Otherwise the
coordinates of all tokens are looked up, which takes several times as many instructions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..geometry import PAD, Grid
from ..masks.rule import Kind
from .form import LOOKED_UP, BlockForm
from .plan import BlockPlan


def block_form(plan: BlockPlan, grid: Grid, q_tile: Grid | None, k_tile: Grid | None) -> BlockForm:
    """Find the form of a plan on a CPU, whose blocks are tiles, or runs of the raster without tiles."""
    partial = plan.col & 1 == 0
    checked = bool(partial.any())
    sides = grid[1:]
    if not checked or plan.kind in (Kind.NONE, Kind.LUT):
        return BlockForm(checked)
    q_coord, k_coord = _blocks(plan.q_coord, plan.block_q), _blocks(plan.k_coord, plan.block_k)
    blank = (k_coord < 0).all(1)
    asked = torch.zeros_like(blank).scatter(0, (plan.col[partial] >> 1).long(), True)
    if plan.kind == Kind.BAND:
        frame = math.prod(sides)
        fits = q_tile is k_tile is None and max(plan.block_q, plan.block_k) <= frame
        if not (fits and _is_run(q_coord, grid).all() and (_is_run(k_coord, grid) | blank).all()):
            return LOOKED_UP
        even = frame % plan.block_q == 0 and frame % plan.block_k == 0
        return BlockForm(True, True, not even or bool((asked & blank).any()), grid_sides=sides)
    q_box, k_box = (
        box_of(block, tile, grid) for block, tile in ((plan.block_q, q_tile), (plan.block_k, k_tile))
    )
    if math.prod(q_box) != plan.block_q or math.prod(k_box) != plan.block_k:
        return LOOKED_UP
    if plan.kind == Kind.DISK and grid[0] % k_box[0]:
        return LOOKED_UP  # a disk would not hide frames beyond the grid
    q_there, k_there = _is_box(q_coord, q_box, grid), _is_box(k_coord, k_box, grid)
    if not ((q_there | (q_coord == PAD)).all() and (k_there.all(1) | blank).all()):
        return LOOKED_UP
    return BlockForm(True, True, bool((asked & blank).any()), q_box[1:], k_box[1:], sides)


def _blocks(coord: Tensor, block: int) -> Tensor:
    """Cut coordinates into blocks, `[blocks, block]`, with padding beyond the end."""
    return F.pad(coord, (0, -len(coord) % block), value=PAD).view(-1, block)


def box_of(block: int, tile: Grid | None, grid: Grid) -> Grid:
    """Return the box that `block` tokens of a tile may be, or of the raster if there are no tiles.

    A tile is cut into boxes along its frames, or along the rows of one frame. If they are none, the result is
    the tile.
    """
    if tile is None:
        columns = min(block, grid[2])
        return 1, block // columns, columns
    depth, height, width = tile
    for box in ((block // (height * width), height, width), (1, block // width, width)):
        if math.prod(box) == block and depth % box[0] == height % box[1] == 0:
            return box
    return tile


def tiles_fit(kind: Kind, grid: Grid, pad: bool, *sides: tuple[int, Grid | None]) -> bool:
    """Return whether blocks of tiles, or of runs of the raster, are boxes with padding beyond the grid only.

    `sides` are the block and the tile of queries, then of keys; `pad` fills tiles up.
    """
    boxes = [box_of(*side, grid) for side in sides]
    if kind == Kind.DISK and grid[0] % boxes[1][0]:
        return False  # a disk would not hide frames beyond the grid
    return all(
        math.prod(box) == block
        and ((pad and tile) or not any(n % e for n, e in zip(grid, tile or box, strict=True)))
        for (block, tile), box in zip(sides, boxes, strict=True)
    )


def _is_box(coord: Tensor, box: Grid, grid: Grid) -> Tensor:
    """Mark the places of blocks that hold what a box at their first token has; padding is beyond the grid."""
    inside = geometry.coordinates(geometry.raster(box), box)
    first = geometry.unpack(coord[:, :1])
    cells = [x + origin for x, origin in zip(inside, first, strict=True)]
    beyond = torch.stack([x >= size for x, size in zip(cells, grid, strict=True)]).any(0)
    return coord == geometry.pack(*cells).masked_fill(beyond, PAD)


def _is_run(coord: Tensor, grid: Grid) -> Tensor:
    """Mark the blocks whose tokens follow each other in the raster, with others only behind its end."""
    t, h, w = (x.long() for x in geometry.unpack(coord))
    number = (t * grid[1] + h) * grid[2] + w
    wanted = number[:, :1] + torch.arange(coord.shape[1])
    follows = torch.where(coord < 0, wanted >= math.prod(grid), number == wanted)
    return (follows & (coord[:, :1] >= 0)).all(1)
