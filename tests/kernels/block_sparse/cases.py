"""Small problems for the kernels: masks by brute force over pairs, block lists from the masks, and dense fp64
attention. Shares no arithmetic with the package.
"""

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

TEXT, PAD = -1, -2


@dataclass
class Case:
    """One plan: `seen bool [S_q, S_kv]` is its mask at token level; the rest is what kernels take."""

    name: str
    seen: Tensor
    q_coord: Tensor
    k_coord: Tensor
    params: tuple[int, ...] = ()
    table: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))

    def problem(self, BM: int, BN: int, lists: tuple[Tensor, Tensor] | None = None):
        """Return arguments as the Triton kernels take them; blocks start in reverse, as order must not
        matter.
        """
        from diffusers_ext.kernels.block_sparse.launch import LaunchArgs

        row_ptr, col = lists or self.lists(BM, BN)
        order = torch.arange(row_ptr.shape[1] - 1, dtype=torch.int32).flip(0)
        return LaunchArgs(
            row_ptr, col, order, (BM, BN), self.name, self.params, self.q_coord, self.k_coord, self.table
        )

    def lists(self, BM: int, BN: int) -> tuple[Tensor, Tensor]:
        """`row_ptr [1, NQ + 1]`, `col [1, nnz]` of the blocks that hold a visible pair."""
        S_q, S_kv = self.seen.shape
        seen = torch.zeros(math.ceil(S_q / BM) * BM, math.ceil(S_kv / BN) * BN, dtype=torch.bool)
        seen[:S_q, :S_kv] = self.seen
        ignored = torch.ones(len(seen), dtype=torch.bool)
        ignored[:S_q] = self.q_coord == PAD
        blocks = seen.view(len(seen) // BM, BM, -1, BN)
        any_ = blocks.any(1).any(-1)
        full = (blocks | ignored.view(-1, BM, 1, 1)).all(1).all(-1)
        row_ptr, col = [0], []
        for i, j in itertools.product(*map(range, any_.shape)):
            if any_[i, j]:
                col.append(j << 1 | int(full[i, j]))
            if j == any_.shape[1] - 1:
                row_ptr.append(len(col))
        return torch.tensor([row_ptr], dtype=torch.int32), torch.tensor([col], dtype=torch.int32)


def packed(grid: tuple[int, int, int], front: int = 0, back: int = 0, padding: int = 0) -> Tensor:
    """Raster order, with text in front or at the back and padding behind it all: `int32 [S]`."""
    inner = [t << 22 | h << 11 | w for t, h, w in itertools.product(*map(range, grid))]
    return torch.tensor([TEXT] * front + inner + [TEXT] * back + [PAD] * padding, dtype=torch.int32)


def _brute(q_coord: Tensor, k_coord: Tensor, rule) -> Tensor:
    def cell(code: int) -> tuple[int, int, int]:
        return code >> 22, code >> 11 & 2047, code & 2047

    def pair(a: int, b: int) -> bool:
        if PAD in (a, b):
            return False
        return TEXT in (a, b) or rule(cell(a), cell(b))

    return torch.tensor([[pair(a, b) for b in k_coord.tolist()] for a in q_coord.tolist()])


def none(queries: int = 70, keys: int = 101) -> Case:
    coords = packed((1, 1, queries)), packed((1, 1, keys))
    return Case("none", torch.ones(queries, keys, dtype=torch.bool), *coords)


def disk() -> Case:
    coord = packed((1, 9, 13), front=5, padding=3)
    seen = _brute(coord, coord, lambda a, b: math.dist(a[1:], b[1:]) < 4)
    return Case("disk", seen, coord, coord, (16,))


def _window(i: int, length: int, w: int, s: int, d: int) -> list[int]:
    """Keys of query `i` on one axis: slide the window that is centred on the leader until it fits."""
    own = list(range(i % d, length, d))
    leader = min(i // d // s * s + s // 2, len(own) - 1)
    left = leader - w // 2
    while left < 0:
        left += 1
    while left + w > len(own):
        left -= 1
    return own[left : left + w]


def box() -> Case:
    axes = ((3, 2, 1, 1), (6, 3, 2, 2), (7, 4, 3, 1))
    coord = packed((3, 6, 7), back=5)
    windows = [[_window(i, *axis) for i in range(axis[0])] for axis in axes]
    seen = _brute(
        coord, coord, lambda a, b: all(y in keys[x] for x, y, keys in zip(a, b, windows, strict=True))
    )
    return Case("box", seen, coord, coord, tuple(n for axis in axes for n in axis))


def band() -> Case:
    reach, width, sink = (23, 23, 5, -1, 0), 6, 1
    coord = packed((5, 4, 6), back=9)

    def rule(a, b):
        along = abs((a[1] - b[1]) * width + a[2] - b[2])
        return along <= reach[abs(a[0] - b[0])] or b[0] < sink

    table = torch.tensor(reach, dtype=torch.int32)
    return Case("band", _brute(coord, coord, rule), coord, coord, (width, sink), table)


def lut() -> Case:
    """Random, with a query that sees nothing."""
    seen = torch.rand(45, 83, generator=torch.Generator().manual_seed(1)) < 0.2
    seen[7] = False
    index = torch.arange(45, dtype=torch.int32), torch.arange(83, dtype=torch.int32)
    return Case("lut", seen, *index, (45, 83), seen.to(torch.int32))


CASES = {make.__name__: make for make in (none, disk, box, band, lut)}


def tensors(case: Case, B: int, H: int, D: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q as a view of `[B, H, S, D]`, k and v as slices of one fused projection: the two layouts that models
    have.
    """
    g = torch.Generator().manual_seed(0)
    S_q, S_kv = case.seen.shape
    q = torch.randn(B, H, S_q, D, generator=g).to(dtype).transpose(1, 2)
    k, v = torch.randn(B, S_kv, 2, H, D, generator=g).to(dtype).unbind(2)
    return q, k, v


def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Dense attention in fp64: `[B, S_q, H, D]` and log-sum-exp `[B, H, S_q]`; 0 and -inf in empty rows."""
    q, k, v = (x.double() for x in (q, k, v))
    s = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    s = s.masked_fill(~seen, -torch.inf)
    lse = s.logsumexp(-1)
    p = (s - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()
    return torch.einsum("bhqk,bkhd->bqhd", p, v), lse
