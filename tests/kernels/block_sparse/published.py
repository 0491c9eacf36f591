"""Rectified sparse attention by the published rule, block by block over lists of tokens, in fp64.

Written from the paper (arXiv 2511.19835) and the steps of its released code; imports nothing of the package
and takes no facts from it. The rule for a block of queries:

1. Queries and keys of the grid are averaged over blocks; text keys stay single.
2. A block weighs as much as its tokens would if all had its mean, the text as much as its tokens do. Weights
   over their sum are shares: one for each block, and one for all text together.
3. Shares are ranked, that of the text among those of the blocks. The columns whose running sum stays within
   `mass` are kept, and the next one, and at least `keep` of the number of blocks, rounded down.
4. Blocks that touch the row's own are kept too, in videos the first frame's view of itself where asked. Text
   is seen in any case.
5. A block that is not kept is pooled where its mean logit exceeds the error of pooling.

Our departures are marked in the code: the order of tokens, shorter last blocks, and when nothing is dropped.
"""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

Cell = tuple[int, int, int]


@dataclass(frozen=True)
class Rule:
    """Settings of the method on a grid `(t, h, w)` with tiles `(t, h, w)`, a block each."""

    grid: Cell
    q_tile: Cell
    k_tile: Cell
    keep: float | None = None
    mass: float | None = None
    touching: bool = False
    first_frame: bool = False

    def cells(self, tile: Cell) -> list[Cell]:
        """Tokens as they follow each other. A departure of ours: tile by tile, each in raster order."""
        t, h, w = self.grid
        cells = [(x, y, z) for x in range(t) for y in range(h) for z in range(w)]
        return sorted(cells, key=lambda c: [x // edge for x, edge in zip(c, tile, strict=True)] + list(c))

    def order(self, tile: Cell) -> Tensor:
        """Raster places of tokens as they follow each other."""
        _, h, w = self.grid
        return torch.tensor([(x * h + y) * w + z for x, y, z in self.cells(tile)])

    def blocks(self, tile: Cell) -> list[list[Cell]]:
        """Tokens of every block; the last one has what is left (a departure of ours: the released code fills
        it up).
        """
        cells, size = self.cells(tile), math.prod(tile)
        return [cells[i : i + size] for i in range(0, len(cells), size)]

    @cached_property
    def columns(self) -> int:
        """Blocks of keys of the grid."""
        return -(-math.prod(self.grid) // math.prod(self.k_tile))

    @cached_property
    def always(self) -> list[set[int]]:
        """For every block of queries the blocks of keys that are kept whatever the data."""
        rows = self.blocks(self.q_tile)
        found: list[set[int]] = [set() for _ in rows]
        if not (self.touching or self.first_frame):
            return found
        steps = list(itertools.product((-1, 0, 1), repeat=3))
        columns = [set(block) for block in self.blocks(self.k_tile)]
        for i, row in enumerate(rows):
            around = {(x + a, y + b, z + c) for x, y, z in row for a, b, c in steps}
            for j, column in enumerate(columns):
                early = self.grid[0] > 1 and min(row)[0] == 0 and min(column)[0] == 0
                if (self.touching and not around.isdisjoint(column)) or (self.first_frame and early):
                    found[i].add(j)
        return found

    @cached_property
    def least(self) -> int:
        """Columns that a row keeps at least, of which the text is one."""
        return max(1, math.floor(Fraction(str(self.keep or 0)) * self.columns))

    @property
    def drops_nothing(self) -> bool:
        """A departure of ours: shares of 1, and single blocks, leave attention dense."""
        return 1 in (self.keep, self.mass) or self.columns == 1


def attend(
    rule: Rule, q: Tensor, k: Tensor, v: Tensor, text_k: Tensor, text_v: Tensor, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output `[B, n, H, D]` of the queries of the grid, and kept blocks `[B, H, NQ, NV]`.

    `q, k, v [B, n, H, D]` are grid tokens, block after block; `text_k, text_v [B, T, H, D]`, of which `seen
    [B, T]`, bool, are visible.
    """
    seen = torch.ones(text_k.shape[:2], dtype=torch.bool) if seen is None else seen
    q_blocks, k_blocks = (_places(rule.blocks(tile)) for tile in (rule.q_tile, rule.k_tile))
    out = torch.empty_like(q)
    kept = torch.zeros(q.shape[0], q.shape[2], len(q_blocks), len(k_blocks), dtype=torch.bool)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            words = text_k[b, seen[b], h], text_v[b, seen[b], h]
            for i, rows in enumerate(q_blocks):
                out[b, rows, h], chosen = _row(
                    rule, i, q[b, rows, h], k[b, :, h], v[b, :, h], k_blocks, *words
                )
                kept[b, h, i, sorted(chosen)] = True
    return out, kept


def attend_raster(
    rule: Rule, q: Tensor, k: Tensor, v: Tensor, text_k: Tensor, text_v: Tensor, seen: Tensor | None = None
) -> Tensor:
    """Return the output of `attend` alone, with grid tokens in raster order."""
    rows, columns = rule.order(rule.q_tile), rule.order(rule.k_tile)
    out = torch.empty_like(q)
    out[:, rows] = attend(rule, q[:, rows], k[:, columns], v[:, columns], text_k, text_v, seen)[0]
    return out


def _places(blocks: list[list[Cell]]) -> list[Tensor]:
    ends = torch.tensor([0] + [len(block) for block in blocks]).cumsum(0).tolist()
    return [torch.arange(start, end) for start, end in itertools.pairwise(ends)]


def _row(rule, number, q, k, v, k_blocks, text_k, text_v):
    """One block of queries `[n, D]` against keys and values `[S, D]` of the grid and `[T, D]` of the text."""
    scale = 1 / math.sqrt(q.shape[1])
    centre = q.mean(0)
    centres = [k[block].mean(0) for block in k_blocks]
    weights = [len(block) * math.exp(centre @ c * scale) for block, c in zip(k_blocks, centres, strict=True)]
    weights.append(sum(math.exp(x) for x in (text_k @ centre * scale).tolist()))  # the text, last
    share = [w / sum(weights) for w in weights]

    ranked = sorted(range(len(share)), key=lambda j: -share[j])  # of equal ones the first
    count, total = 0, 0.0
    if rule.mass is not None:
        while count < len(ranked) and total + share[ranked[count]] <= rule.mass:
            total += share[ranked[count]]
            count += 1
        count += 1
    text = len(k_blocks)
    chosen = set(ranked[: len(ranked) if rule.drops_nothing else max(count, rule.least)]) - {text}
    chosen |= rule.always[number]

    off = (q - centre).abs().mean(0)
    pooled = []
    for j in set(range(text)) - chosen:
        error = abs(off @ centres[j]) + abs(centre @ (k[k_blocks[j]] - centres[j]).abs().mean(0))
        if abs(centre @ centres[j]) > error:
            pooled.append(j)
    places = torch.cat([k_blocks[j] for j in sorted(chosen)] + [torch.arange(0)])
    keys, values = torch.cat([k[places], text_k]), torch.cat([v[places], text_v])
    sparse = (q @ keys.T * scale).softmax(-1) @ values
    rest = sum((share[j] * v[k_blocks[j]].mean(0) for j in pooled), torch.zeros_like(centre))
    return (1 - sum(share[j] for j in pooled)) * sparse + rest, chosen
