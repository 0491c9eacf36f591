"""Add text and extra keys to the blocks of the grid.

Grid tokens see all text and all extra keys. Text sees all but the extra keys. Text stands behind the grid, or
before the keys of it in blocks of its own. So blocks of the grid stay as they are, but for the one in which
text begins.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .cover import Cover


@dataclass(frozen=True)
class Held:
    """The contents of the blocks of queries or of keys, bool `[blocks]` each.

    Blocks hold tokens of the grid, text, extra keys, and what is hidden: padding, and places behind the end.
    `leading` is the number of blocks before those of the grid.
    """

    grid: Tensor
    text: Tensor
    extra: Tensor
    hidden: Tensor
    leading: int = 0

    @classmethod
    def of(cls, order: Tensor, text: int, extra: int, block: int, text_first: bool = False) -> Self:
        """Find it for the tokens of an order, followed by text and extra keys, or behind the text."""
        real = order >= 0
        others = real.new_zeros(text), real.new_ones(text), real.new_zeros(extra), real.new_ones(extra)
        no_text, all_text, no_extra, all_extra = others
        places = (
            torch.cat([real, no_text, no_extra]),
            torch.cat([torch.zeros_like(real), all_text, no_extra]),
            torch.cat([torch.zeros_like(real), no_text, all_extra]),
            torch.cat([~real, no_text, no_extra]),
        )
        if text_first:
            places = tuple(x.roll(text) for x in places)
        short = -len(places[0]) % block
        grid, words, more, hidden = (
            F.pad(x, (0, short), value=x is places[3]).view(-1, block).any(1) for x in places
        )
        return cls(grid, words, more, hidden, text // block if text_first else 0)


def with_text(cover: Cover, q: Held, k: Held, masked_text: bool, whole: bool) -> Cover:
    """List all blocks of a plan, from those of the grid.

    `masked_text` keeps text and extra keys out of FULL blocks. `whole` shows every key of a visited block.
    """
    count = F.pad(cover.count, (0, len(q.grid) - len(cover.count)))
    others = k.text | k.extra
    asked = k.hidden | others if masked_text else k.hidden
    entries = cover.entries + 2 * k.leading
    grid_rows = int((~q.text).sum())  # they come first
    split = int(count[:grid_rows].sum())
    above = Cover(count[:grid_rows], entries[:split] & ~asked[(entries[:split] >> 1).long()].int())
    if bool(others.any()):
        above = _seeing(above, q.grid[:grid_rows], k, others, asked, whole)
    if grid_rows == len(q.grid):
        return above
    # The few rows that hold text see most blocks, so they are a matrix.
    grid, text = q.grid[grid_rows:, None], q.text[grid_rows:, None]
    touched = torch.zeros(len(grid), len(k.grid), dtype=torch.bool)
    each = ~(grid & k.grid) | whole
    row = torch.arange(len(grid)).repeat_interleave(count[grid_rows:])
    column = (entries[split:] >> 1).long()
    touched[row, column] = True
    each[row, column] |= (entries[split:] & 1).bool()
    touched |= (text & (k.grid | k.text)) | (grid & others)
    each &= touched & ~asked & ~(text & k.extra)
    i, j = touched.nonzero(as_tuple=True)
    below = (j << 1 | each[i, j]).int()
    return Cover(torch.cat([above.count, touched.sum(1)]), torch.cat([above.entries, below]))


def _seeing(cover: Cover, there: Tensor, k: Held, others: Tensor, asked: Tensor, whole: bool) -> Cover:
    """Add the key blocks that are among `others` to rows without text, which see all of them.

    Such a block can hold grid tokens, too. Then it may be among the blocks of the grid already.
    """
    count, entries = cover.count, cover.entries
    more = others.nonzero().flatten()
    seen = (~k.grid[more] | whole).expand(len(there), -1) & ~asked[more]
    if bool((others & k.grid).any()):
        mixed = others[(entries >> 1).long()]
        at, both = mixed.nonzero().flatten(), entries[mixed]
        row = torch.searchsorted(starts(count), at, right=True) - 1
        seen = seen.clone()
        seen[row, others.cumsum(0)[(both >> 1).long()] - 1] |= (both & 1).bool()
        count, entries = count - torch.bincount(row, minlength=len(count)), entries[~mixed]
    total = count + there * len(more)
    first = starts(total)[:-1] if k.leading else starts(total)[1:] - len(more)
    place = (first[:, None] + torch.arange(len(more)))[there].flatten()
    of_grid = torch.ones(int(total.sum()), dtype=torch.bool)
    of_grid[place] = False
    out = torch.empty(len(of_grid), dtype=torch.int32).masked_scatter_(of_grid, entries)
    out[place] = (more << 1 | seen)[there].flatten().int()
    return Cover(total, out)


def starts(count: Tensor) -> Tensor:
    """Return where each row begins in a list, and the end of the list."""
    return F.pad(count.cumsum(0), (1, 0))
