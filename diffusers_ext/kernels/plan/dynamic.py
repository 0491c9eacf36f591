"""Dynamic plans, whose blocks depend on the data, hold what is known before the data."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .. import geometry
from ..geometry import Grid
from ..masks.neighbours import Neighbours
from ..masks.rule import Kind, no_table
from .form import BlockForm
from .plan import BlockPlan, PlanSpec, PlanStats, longest_first
from .spec import TEXT_FIELDS, RulePlanSpec

KEPT = ("q_order", "always", "_always_kept")  # with other text


@dataclass(frozen=True, eq=False)
class DynamicPlan(BlockPlan):
    """A plan that lists every block, out of which `block_sparse.select` takes some.

    `NV` key blocks hold grid tokens; the last may hold fewer. The others hold text and are always kept; they
    come behind, or with `text_first` before. `always bool [NQ, NV]` marks the blocks that are kept for any
    data. `least` is the number of columns that a row keeps at least: blocks of grid tokens, and the text as
    one. `counts int32 [NV]` are the numbers of tokens in the blocks.
    """

    always: Tensor = field(kw_only=True)
    counts: Tensor = field(kw_only=True)
    least: int = field(kw_only=True)
    text: int = field(kw_only=True)
    text_first: bool = field(kw_only=True, default=False)

    @property
    def grid_keys(self) -> slice:
        """The places of the keys of the grid, without padding."""
        first = self.text if self.text_first else 0
        return slice(first, first + self.s_q)

    @property
    def text_keys(self) -> slice:
        """The places of the keys of the text."""
        return slice(0, self.text) if self.text_first else slice(self.s_kv - self.text, self.s_kv)

    @property
    def grid_blocks(self) -> slice:
        """The numbers of the key blocks that hold grid tokens."""
        first = self.text // self.block_k if self.text_first else 0
        return slice(first, first + len(self.counts))

    @property
    def order(self) -> Tensor:
        """The order in which to launch rows, int32 `[NQ]`; not cached, since lists change with every call."""
        return longest_first(self.row_ptr)

    @property
    def entries(self) -> Tensor:
        """The entries of all key blocks in lists, `block << 1 | full`: int32 `[NK]`."""
        return self.col[0, : self.col.shape[1] // self.rows]


@dataclass(frozen=True)
class DynamicPlanSpec(PlanSpec):
    """A plan in which each row of queries keeps blocks that depend on the data; the rest is as in `PlanSpec`.

    Tokens are ordered tile by tile, so that a block is compact. Short tiles follow each other without
    padding, so the last block can hold fewer tokens. Text starts a block of its own. If it fills complete
    blocks, `text_first` can put it before the grid.

    A row also keeps the blocks that touch its own on the grid (`touching`). With `first_frame`, blocks with
    tokens of the first frame keep each other. A row chooses by the data among the blocks and the text, which
    is one column. It chooses at least as many columns as the share `keep` of the blocks. That is one column
    if `keep` is 0, and all if it is 1 or the grid is a single block. So a row keeps one block fewer if the
    text ranks high, and `stats` and `pairs` count the least that is visited.
    """

    grid: Grid
    text: int
    q_tile: Grid
    k_tile: Grid
    keep: float
    touching: bool = True
    first_frame: bool = False
    text_rows: bool = True
    masked_text: bool = False
    text_first: bool = False
    extra_keys: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.text_first and (self.text_rows or self.text % self.block_k):
            raise ValueError(
                f"Text comes first among keys only, and in whole blocks of {self.block_k}, got {self.text} "
                "tokens; leave text_first out."
            )

    def changed(self, **changes: Any) -> Self:
        """Return the plan with other text, keeping what is known of the blocks of the grid."""
        other = super().changed(**changes)
        if changes.keys() <= TEXT_FIELDS:
            vars(other).update({name: x for name, x in vars(self).items() if name in KEPT})
        return other

    @property
    def block_q(self) -> int:
        """The number of tokens in a block of queries."""
        return math.prod(self.q_tile)

    @property
    def block_k(self) -> int:
        """The number of tokens in a block of keys."""
        return math.prod(self.k_tile)

    @property
    def key_blocks(self) -> int:
        """The number of blocks of grid tokens, `NV`."""
        return -(-self.grid_tokens // self.block_k)

    @property
    def least(self) -> int:
        """The number of columns that a row keeps at least: blocks of grid tokens, and the text as one more.

        The share of the blocks is rounded down, as in the published code.
        """
        if self.keep == 1 or self.key_blocks == 1:
            return self.key_blocks + self._text_columns
        return max(1, int(self.keep * self.key_blocks + 1e-9))

    @cached_property
    def q_order(self) -> Tensor:
        """The raster number of the grid token at each query place; text is not listed."""
        return geometry.tile_major(self.grid, self.q_tile)

    @cached_property
    def k_order(self) -> Tensor:
        """The raster number of the grid token at each key place; -1 fills the last block up before text."""
        order = self.q_order if self.k_tile == self.q_tile else geometry.tile_major(self.grid, self.k_tile)
        return torch.nn.functional.pad(order, (0, self._padding), value=-1)

    @cached_property
    def always(self) -> Tensor:
        """The blocks that are kept for any data: bool `[NQ, NV]`."""
        out = torch.zeros(-(-self.grid_tokens // self.block_q), self.key_blocks, dtype=torch.bool)
        if self.touching:
            blocks = self.block_q, self.block_k
            out |= RulePlanSpec(Neighbours(), self.grid, 0, *blocks, self.q_tile, self.k_tile).bitmap()
        if self.first_frame and self.grid[0] > 1:
            q, k = (self.q_order, self.block_q), (self.k_order[: self.grid_tokens], self.block_k)
            rows, columns = (self._first(*side) for side in (q, k))
            out |= rows[:, None] & columns
        return out

    @property
    def kind(self) -> Kind:
        """The rule that PARTIAL blocks check, which is none: kept blocks check only which keys there are."""
        return Kind.NONE

    @property
    def computed(self) -> bool:
        """Return whether kernels need no coordinates of single tokens; no rule is checked."""
        return True

    @property
    def pairs(self) -> int:
        """The least number of pairs of tokens that see each other; all pairs if nothing can be dropped."""
        sizes = _sizes(self.grid_tokens, self.block_q)
        seen = (self._kept * self.block_k).clamp(max=self.grid_tokens)
        return int((sizes * seen).sum()) + self._text_pairs()

    @cached_property
    def stats(self) -> PlanStats:
        """The least counts of the plan.

        It is not known which blocks are visited, so FULL ones are counted by their share.
        """
        columns = self.key_blocks + self._text_blocks
        rows = self._kept + self._text_blocks
        ragged = (self.grid_tokens % self.block_k > 0) * self._kept / self.key_blocks
        ragged = ragged + (self.text % self.block_k > 0)
        if self.text and self.text_rows:  # from the block on in which text starts, rows see all
            rows, ragged = (x[: self.grid_tokens // self.block_q] for x in (rows, ragged))
        s_q = self.grid_tokens + (self.text if self.text_rows else 0)
        all_rows = -(-s_q // self.block_q) - len(rows)
        cut_off = (self.grid_tokens % self.block_k > 0) + (self.text % self.block_k > 0)
        visited = int(rows.sum()) + all_rows * columns
        full = visited - round(float(ragged.sum())) - all_rows * cut_off
        return self._stats(s_q, self.grid_tokens + self._padding + self.text, visited, full)

    @property
    def plan_bytes(self) -> int:
        """The bytes of the tensors of the plan: every block is listed, and `always` takes a byte each."""
        rows, columns = len(self.always), self.key_blocks
        listed = rows * (columns + self._text_blocks)
        return 4 * (rows + 1 + listed + columns + self.grid_tokens + self.stats.s_kv) + rows * columns

    def build(self, device: torch.device | str = "cpu") -> DynamicPlan:
        """List all blocks, for queries of the grid alone; raises `ValueError` as `PlanSpec.build` does."""
        geometry.check_grid(self.grid)
        q_coord = geometry.coded(self.q_order, self.grid)
        k_coord = geometry.coded(self.k_order, self.grid, self.text)
        counts, texts = _sizes(self.grid_tokens, self.block_k), _sizes(self.text, self.block_k)
        full = torch.cat([counts == self.block_k, (texts == self.block_k) & (not self.masked_text)])
        if self.text_first:
            k_coord, full = k_coord.roll(self.text), full.roll(len(texts))
        rows, columns = len(self.always), len(full)
        entries = torch.arange(columns) << 1 | full
        return DynamicPlan(
            row_ptr=(torch.arange(rows + 1) * columns).int()[None],
            col=entries.int().repeat(rows)[None],
            block_q=self.block_q,
            block_k=self.block_k,
            s_q=len(q_coord),
            s_kv=len(k_coord),
            q_coord=q_coord,
            k_coord=k_coord,
            kind=self.kind,
            params=(),
            table=no_table(),
            pairs=self.pairs,
            key=(replace(self), str(device)),
            form=BlockForm(checked=not bool(full.all())),
            always=self.always,
            counts=counts.int(),
            least=self.least,
            text=self.text,
            text_first=self.text_first,
        ).to(device)

    @property
    def _kept(self) -> Tensor:
        """The least number of grid blocks that a row keeps, with the text among its `least`: `[NQ]`."""
        return self._always_kept.clamp(min=self.least - self._text_columns)

    @cached_property
    def _always_kept(self) -> Tensor:
        return self.always.sum(1, dtype=torch.int32)

    @property
    def _text_columns(self) -> int:
        return int(self.text > 0)

    @property
    def _padding(self) -> int:
        return -self.grid_tokens % self.block_k if self.text and not self.text_first else 0

    @property
    def _text_blocks(self) -> int:
        return -(-self.text // self.block_k)

    def _first(self, order: Tensor, block: int) -> Tensor:
        """Mark blocks with tokens of the first frame."""
        early = geometry.coordinates(order, self.grid)[0] == 0
        return torch.nn.functional.pad(early, (0, -len(order) % block)).view(-1, block).any(1)


def _sizes(tokens: int, block: int) -> Tensor:
    """Count the tokens of each block."""
    return (tokens - torch.arange(0, tokens, block)).clamp(max=block)
