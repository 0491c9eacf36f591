"""Cover blocks of a sequence by boxes, so that interval arithmetic decides rules exactly.

A block of consecutive places is rarely a box of the grid. A run of raster order continues in the next row,
and a block of ragged tiles overlaps two tiles. So each block is cut into runs along `w`, which are joined
along `h` and `t` to a few boxes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..masks.rule import Rule

CHUNK = 1 << 20  # block pairs in one step


@dataclass(frozen=True)
class Boxes:
    """The boxes of each block, at most `R`, as inclusive corners `lo, hi [blocks, R, 3]`.

    `there [blocks, R]` marks valid boxes; `outer_lo, outer_hi` bound a block. `text`, `vision`, `hidden
    [blocks]` say whether a block holds text, grid tokens, padding (inside or beyond the end of the sequence).
    """

    lo: Tensor
    hi: Tensor
    there: Tensor
    outer_lo: Tensor
    outer_hi: Tensor
    text: Tensor
    vision: Tensor
    hidden: Tensor

    @property
    def single(self) -> Tensor:
        """The blocks that are one box, so that the outer box decides."""
        return self.there.sum(1) == 1


def decompose(axes: tuple[Tensor, Tensor, Tensor], text: Tensor, pad: Tensor, block: int) -> Boxes:
    """Cut every `block` places into boxes, from coordinates `[P]` and flags of text and padding."""
    places = text.shape[0]
    count = -(-places // block)
    number = torch.arange(places) // block
    grid_token = ~(text | pad)
    lo = torch.stack(axes, 1)[grid_token]
    owner = number[grid_token]
    hi = lo.clone()
    for axis in (2, 1, 0):
        lo, hi, owner = _join(lo, hi, owner, axis)

    rank = torch.arange(len(owner)) - torch.searchsorted(owner, owner)  # number of a box inside its block
    most = int(rank.max()) + 1 if len(owner) else 1
    there = torch.zeros(count, most, dtype=torch.bool)
    boxes = torch.zeros(2, count, most, 3, dtype=torch.int32)
    there[owner, rank] = True
    boxes[0, owner, rank] = lo.int()
    boxes[1, owner, rank] = hi.int()

    beyond = 1 << 20
    held = [torch.zeros(count, dtype=torch.bool) for _ in range(3)]
    for flag, where in zip(held, (text, grid_token, pad), strict=True):
        flag[number[where]] = True
    if places % block:
        held[2][-1] = True
    return Boxes(
        *boxes,
        there,
        boxes[0].masked_fill(~there[..., None], beyond).amin(1),
        boxes[1].masked_fill(~there[..., None], -beyond).amax(1),
        *held,
    )


def classify(rule: Rule, q: Boxes, k: Boxes, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Decide `touched, full` of grid tokens for some query blocks and all key blocks.

    Outer boxes decide all pairs of blocks that are single boxes, and the clear cases among the others. The
    boxes inside the blocks decide the rest.
    """
    qlo, qhi = q.outer_lo[rows, None], q.outer_hi[rows, None]
    touched, full = rule.touch(qlo, qhi, k.outer_lo[None], k.outer_hi[None])
    vision = q.vision[rows, None] & k.vision[None]
    touched, full = touched & vision, full | ~vision
    unclear = touched & ~full & ~(q.single[rows, None] & k.single[None])
    i, j = unclear.nonzero(as_tuple=True)
    share = max(1, CHUNK // (q.there.shape[1] * k.there.shape[1]))
    for a, b in zip(i.split(share), j.split(share), strict=True):
        r = rows[a]
        some, each = rule.touch(q.lo[r, :, None], q.hi[r, :, None], k.lo[b, None], k.hi[b, None])
        there = q.there[r, :, None] & k.there[b, None]
        touched[a, b] = (some & there).flatten(1).any(1)
        full[a, b] = (each | ~there).flatten(1).all(1)
    return touched, full


def _join(lo: Tensor, hi: Tensor, owner: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Join neighbours of one block that continue each other along `axis` and agree on the other two."""
    if len(owner) < 2:
        return lo, hi, owner
    others = [a for a in range(3) if a != axis]
    follows = (
        (owner[1:] == owner[:-1])
        & (lo[1:, axis] == hi[:-1, axis] + 1)
        & (lo[1:, others] == lo[:-1, others]).all(1)
        & (hi[1:, others] == hi[:-1, others]).all(1)
    )
    first = torch.cat([torch.ones(1, dtype=torch.bool), ~follows])
    last = torch.cat([~follows, torch.ones(1, dtype=torch.bool)])
    return lo[first], hi[last], owner[first]
