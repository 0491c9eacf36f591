"""Cut blocks of a sequence into boxes, for which interval arithmetic decides rules exactly.

A block of consecutive places is rarely a box of the grid. A run of raster order continues in the next row,
and a block of ragged tiles overlaps two tiles. So each block is cut into runs along `w`, which are joined
along `h` and `t` to a few boxes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Boxes:
    """The boxes of each block, at most `R`, as inclusive corners `lo, hi [blocks, R, 3]`.

    `there [blocks, R]` marks valid boxes; `outer_lo, outer_hi [blocks, 3]` bound a block. A block of padding
    alone has no box, and zeros for its corners.
    """

    lo: Tensor
    hi: Tensor
    there: Tensor
    outer_lo: Tensor
    outer_hi: Tensor

    @property
    def some(self) -> Tensor:
        """The blocks that hold a token."""
        return self.there[:, 0]

    @property
    def several(self) -> Tensor:
        """The blocks whose outer box does not decide: they are more than one box."""
        return self.there.sum(1) > 1


def decompose(axes: tuple[Tensor, Tensor, Tensor], real: Tensor, block: int) -> Boxes:
    """Cut every `block` places into boxes, from coordinates `[P]`; places that are not `real` have none."""
    count = -(-len(real) // block)
    places = real.nonzero().flatten()
    lo = hi = [axis.index_select(0, places).int() for axis in axes]
    owner = places // block
    for axis in (2, 1, 0):
        lo, hi, owner = _join(lo, hi, owner, axis)

    rank = torch.arange(len(owner)) - torch.searchsorted(owner, owner)  # number of a box inside its block
    most = int(rank.max()) + 1 if len(owner) else 1
    there = torch.zeros(count, most, dtype=torch.bool)
    boxes = torch.zeros(2, count, most, 3, dtype=torch.int32)
    there[owner, rank] = True
    boxes[0, owner, rank] = torch.stack(lo, 1)
    boxes[1, owner, rank] = torch.stack(hi, 1)
    outer_lo = boxes[0].masked_fill(~there[..., None], 1 << 30).amin(1)
    outer_hi = boxes[1].amax(1)  # corners are not negative
    return Boxes(*boxes, there, outer_lo.masked_fill(~there[:, :1], 0), outer_hi)


def _join(
    lo: list[Tensor], hi: list[Tensor], owner: Tensor, axis: int
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Join neighbours of one block that continue each other along `axis` and agree on the other two."""
    if not len(owner):
        return lo, hi, owner
    follows = owner[1:] == owner[:-1]
    follows &= lo[axis][1:] == hi[axis][:-1] + 1
    for other in {0, 1, 2} - {axis}:
        follows &= (lo[other][1:] == lo[other][:-1]) & (hi[other][1:] == hi[other][:-1])
    edge = follows.new_zeros(1)
    first, last = (
        torch.cat(parts).logical_not().nonzero().flatten() for parts in ((edge, follows), (follows, edge))
    )
    return [x[first] for x in lo], [x[last] for x in hi], owner[first]
