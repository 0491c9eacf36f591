"""The rules once more, pair by pair in plain Python; plans and kernels are tested against these.

Masks are made once for all tests of a process, so nobody may write into them.
"""

import functools
import itertools
import math
from fractions import Fraction

import torch
from torch import Tensor


def cells(grid):
    """`(t, h, w)` of every token in raster order."""
    return list(itertools.product(*map(range, grid)))


@functools.cache
def disk(grid, radius):
    """bool `[N, N]`; distances by square root."""
    tokens = cells(grid)
    return torch.tensor(
        [[math.hypot(a[1] - b[1], a[2] - b[2]) < radius - 1e-9 for b in tokens] for a in tokens]
    )


def window_of(i, length, window, stride, dilation=1):
    """Keys of query `i` on one axis, found through the centre of the window."""
    mates = range(i % dilation, length, dilation)  # tokens of the same dilation group
    leader = min(i // dilation // stride * stride + stride // 2, len(mates) - 1)
    left, right = window // 2, (window - 1) // 2
    centre = max(left, min(leader, len(mates) - 1 - right))
    return {mates[k] for k in range(centre - left, centre + right + 1)}


@functools.cache
def box(grid, window, stride, dilation=(1, 1, 1)):
    """bool `[N, N]`."""
    tokens = cells(grid)
    keys = [
        [window_of(i, *axis) for i in range(axis[0])]
        for axis in zip(grid, window, stride, dilation, strict=True)
    ]
    return torch.tensor([[all(b[a] in keys[a][q[a]] for a in range(3)) for b in tokens] for q in tokens])


@functools.cache
def radial_paper(grid, sink):
    """Token rule of the paper's section 3."""
    frames, s = grid[0], grid[1] * grid[2]

    def sees(i, j, k, m):
        band = 2 ** math.floor(math.log2(max(abs(i - j), 1)))
        if j < sink:
            return True
        if band <= s:
            return abs(k - m) + 1 <= s / band
        return abs(i - j) % math.ceil(band / s) == 0 and k == m

    return _frames(frames, s, sees)


@functools.cache
def radial_release(grid, decay, sink, floor=128):
    """The published code's token rule, but neighbouring frames see all of each other at any size."""
    frames, s = grid[0], grid[1] * grid[2]
    return radial_code(grid, decay, sink, floor) | _frames(frames, s, lambda i, j, k, m: abs(i - j) == 1)


@functools.cache
def radial_code(grid, decay, sink, floor=128):
    """Token rule of the published code as it computes, by float comparison. Its 128 is no setting there: at
    fewer tokens a frame it thins out frame distance 1 as well.
    """
    frames, s = grid[0], grid[1] * grid[2]
    power = 1
    while power <= s:
        power *= 2

    def sees(i, j, k, m):
        d = abs(i - j)
        if j < sink:
            return True
        base = power / 2 ** (math.floor(math.log2(d)) + 1 if d else 0)
        kept = base >= 128 or d % int(128 / base) == 0
        return kept and (d <= 1 or abs(k - m) <= max(base * decay, floor))

    return _frames(frames, s, sees)


def _frames(frames, s, sees):
    n = frames * s
    return torch.tensor([[sees(a // s, b // s, a % s, b % s) for b in range(n)] for a in range(n)])


def tiles_of(grid, tile):
    """The tokens of each tile along `(t, h, w)`, cut off at the grid."""
    runs = [[range(i, min(i + e, n)) for i in range(0, n, e)] for n, e in zip(grid, tile, strict=True)]
    return list(itertools.product(*runs))


def by_most(mask: Tensor, grid, q_tile, k_tile) -> Tensor:
    """bool `[NQ, NK]`: tiles of which most is seen in the mask of all, until nine tenths are kept; ties stay
    together.
    """
    number = {cell: i for i, cell in enumerate(cells(grid))}
    q_tiles, k_tiles = (
        [[number[cell] for cell in itertools.product(*tile)] for tile in tiles_of(grid, edges)]
        for edges in (q_tile, k_tile)
    )

    def kept(q):
        seen = [int(mask[q][:, k].sum()) for k in k_tiles]
        shares = [Fraction(s, len(q) * len(k)) for s, k in zip(seen, k_tiles, strict=True)]
        for cut in sorted({*shares}, reverse=True):
            if 10 * sum(s for s, share in zip(seen, shares, strict=True) if share >= cut) >= 9 * sum(seen):
                return [share >= cut for share in shares]

    return torch.tensor([kept(q) for q in q_tiles])


def whole_tiles(mask: Tensor, grid, tile) -> Tensor:
    """bool `[N, N]`: the same, token by token."""
    number = {cell: i for i, tile in enumerate(tiles_of(grid, tile)) for cell in itertools.product(*tile)}
    owner = torch.tensor([number[cell] for cell in cells(grid)])
    return by_most(mask, grid, tile, tile)[owner[:, None], owner]


def strict(mask: Tensor, frames: int, per_frame: int, block: int) -> Tensor:
    """The block rule of the published radial code: every pair of frames on a canvas of its own."""
    count = -(-mask.shape[0] // block)
    kept = torch.zeros(count, count, dtype=torch.bool)
    for i, j in itertools.product(range(frames), repeat=2):
        top, left = i * per_frame % block, j * per_frame % block
        rows, columns = -(-(top + per_frame) // block), -(-(left + per_frame) // block)
        canvas = torch.zeros(rows * block, columns * block)
        part = mask[i * per_frame : (i + 1) * per_frame, j * per_frame : (j + 1) * per_frame]
        canvas[top : top + per_frame, left : left + per_frame] = part
        for a, b in itertools.product(range(rows), range(columns)):
            rows_of_block = min(block, mask.shape[0] - (i * per_frame // block + a) * block)
            part = canvas[a * block : (a + 1) * block, b * block : (b + 1) * block]
            density = part.sum(0) / rows_of_block
            seen = int((density > 0).sum())
            if seen and int((density > 1 / 3).sum()) / seen > 0.6:
                kept[i * per_frame // block + a, j * per_frame // block + b] = True
    return kept


def in_order(
    mask: Tensor, q_order: Tensor, k_order: Tensor, text: int, text_rows: bool, extra: int = 0
) -> Tensor:
    """A mask of grid tokens at the places of a plan: permuted, padding hidden, text sees all, seen by all.

    Extra keys come last and are seen by grid tokens only.
    """
    out = mask[q_order.clamp(min=0)][:, k_order.clamp(min=0)] & (q_order >= 0)[:, None] & (k_order >= 0)
    out = torch.cat([out, (q_order >= 0)[:, None].expand(-1, text + extra)], 1)
    if text_rows:
        everywhere = torch.cat([k_order >= 0, torch.ones(text), torch.zeros(extra)]).bool()
        out = torch.cat([out, everywhere.expand(text, -1)])
    return out


def blocks(mask: Tensor, real_q: Tensor, block_q: int, block_k: int) -> tuple[Tensor, Tensor]:
    """`any, full` per block: padded queries are ignored, missing and padded keys count as hidden."""
    rows, columns = -(-mask.shape[0] // block_q), -(-mask.shape[1] // block_k)
    touched, full = (torch.zeros(rows, columns, dtype=torch.bool) for _ in range(2))
    for a, b in itertools.product(range(rows), range(columns)):
        queries = slice(a * block_q, (a + 1) * block_q)
        part = mask[queries][real_q[queries], b * block_k : (b + 1) * block_k]
        touched[a, b] = part.any()
        full[a, b] = part.shape[1] == block_k and part.all() and part.any()
    return touched, full


def listed(plan) -> tuple[Tensor, Tensor]:
    """`any, full` per block as a plan lists them."""
    columns = -(-plan.s_kv // plan.block_k)
    touched, full = (torch.zeros(plan.rows, columns, dtype=torch.bool) for _ in range(2))
    for row in range(plan.rows):
        for entry in plan.col[0, plan.row_ptr[0, row] : plan.row_ptr[0, row + 1]].tolist():
            assert not touched[row, entry >> 1], "a block is listed twice"
            touched[row, entry >> 1], full[row, entry >> 1] = True, bool(entry & 1)
    return touched, full
