"""Block plans list the blocks of keys that each block of queries visits, and what is checked there.

A block is EMPTY (not listed), PARTIAL (listed, its rule is checked token by token) or FULL (listed, no
check).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ..geometry import PAD, Grid, raster
from ..masks.rule import Kind
from .form import LOOKED_UP, BlockForm


@dataclass(frozen=True)
class PlanStats:
    """Counts of a plan, without its blocks.

    `tokens` counts the grid and the text, `queries` the tokens among them that are queries, `extra_keys` the
    keys behind the text. `s_q` and `s_kv` count places of queries and of keys, padding included. `visited`
    blocks are listed, `full` of them need no check.
    """

    block_q: int
    block_k: int
    tokens: int
    queries: int
    extra_keys: int
    s_q: int
    s_kv: int
    visited: int
    full: int

    @property
    def work(self) -> int:
        """The number of pairs that a kernel multiplies, padding included."""
        return self.visited * self.block_q * self.block_k

    @property
    def block_density(self) -> float:
        """The number of visited blocks over that of dense attention; padding counts.

        Dense attention has no extra keys, so they can bring it above 1. Without any it is
        `BlockPlan.block_density`.
        """
        rows, keys = -(-self.s_q // self.block_q), self.s_kv - self.extra_keys
        return self.visited / (rows * -(-keys // self.block_k))

    @property
    def cost(self) -> float:
        """The number of visited blocks over that of dense attention for the tokens, without padding."""
        return self.visited / (-(-self.queries // self.block_q) * -(-self.tokens // self.block_k))

    @property
    def full_share(self) -> float:
        """The share of the visited blocks that need no check."""
        return self.full / max(self.visited, 1)

    def effective_cost(self, partial: float) -> float:
        """Return `cost`, with a PARTIAL block counted as `partial` FULL ones."""
        return self.cost * (self.full_share + (1 - self.full_share) * partial)


class PlanSpec(ABC):
    """Everything that shapes a plan, and so also its key in caches; subclasses are frozen dataclasses.

    Queries and keys are the tokens of `grid`, in raster order or tile by tile (`q_tile`, `k_tile`), followed
    by `text` tokens. Blocks have `block_q` queries and `block_k` keys. `text_rows=False` leaves text out of
    the queries, for kernels that leave those rows to dense attention. `text_first` then puts the text keys
    before the others. `extra_keys` come last; grid queries see them, text queries do not. `masked_text` keeps
    text keys out of FULL blocks, so that `BlockPlan.hiding` can hide some.
    """

    grid: Grid
    text: int
    block_q: int
    block_k: int
    q_tile: Grid | None
    k_tile: Grid | None
    text_rows: bool
    masked_text: bool
    text_first: bool
    extra_keys: int

    @property
    @abstractmethod
    def q_order(self) -> Tensor:
        """The raster number of the grid token at each query place, -1 for padding; text is not listed."""

    @property
    @abstractmethod
    def k_order(self) -> Tensor:
        """The raster number of the grid token at each key place, -1 for padding; text is not listed."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """The rule that PARTIAL blocks check."""

    @property
    @abstractmethod
    def computed(self) -> bool:
        """Return whether kernels need no coordinates of single tokens, as `BlockPlan.form` will say."""

    @property
    @abstractmethod
    def pairs(self) -> int:
        """The number of pairs of tokens that see each other."""

    @property
    @abstractmethod
    def stats(self) -> PlanStats:
        """The counts of the plan, without building it; also for grids that no kernel can address."""

    @property
    @abstractmethod
    def plan_bytes(self) -> int:
        """The bytes of the tensors of the plan and of the order of its rows."""

    @abstractmethod
    def build(self, device: torch.device | str = "cpu") -> "BlockPlan":
        """List the blocks; raises `ValueError` for grids that kernels cannot address."""

    @property
    def grid_tokens(self) -> int:
        """The number of tokens of the grid."""
        return math.prod(self.grid)

    @property
    def in_raster(self) -> bool:
        """Return whether queries and keys are in raster order, so that no token is moved."""
        order = raster(self.grid)
        return order.equal(self.q_order) and order.equal(self.k_order)

    def changed(self, **changes: Any) -> Self:
        """Return the plan with other fields; what stays true of its blocks is not computed again."""
        return replace(self, **changes)

    def leading(self) -> Self:
        """Put the text keys first, if that leaves blocks of the grid as they are."""
        fills_blocks = self.text > 0 and self.text % self.block_k == 0
        return self.changed(text_first=True) if fills_blocks and self._text_can_lead else self

    @property
    def _text_can_lead(self) -> bool:
        return not self.text_rows and not self.extra_keys

    def _stats(self, s_q: int, s_kv: int, visited: int, full: int) -> PlanStats:
        tokens = self.grid_tokens + self.text
        queries = tokens if self.text_rows else self.grid_tokens
        sizes = self.block_q, self.block_k, tokens, queries, self.extra_keys
        return PlanStats(*sizes, s_q, s_kv, visited, full)

    def _text_pairs(self) -> int:
        """Count the visible pairs that have a text token or an extra key on either side."""
        n, rows = self.grid_tokens, self.text if self.text_rows else 0
        return n * (self.text + self.extra_keys) + rows * (n + self.text)


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """The lists of a block-sparse kernel; `G` plans (one, or one a head) share sizes and coordinates.

    Shapes: `row_ptr int32 [G, NQ + 1]` into `col int32 [G, nnz]`, whose entries are `key block << 1 | full`,
    ascending in a row. `q_coord int32 [s_q]`, `k_coord int32 [s_kv]` are packed coordinates (`geometry.pack`)
    or sentinels: TEXT is visible to and sees all, PAD is visible to none. The rule for PARTIAL blocks is
    `kernels.masks.visible.visible(kind, params, table, q_coord, k_coord)`. The last block of keys is never
    FULL unless the sequence fills it. `pairs` counts visible pairs of tokens; `key` identifies everything
    that shaped the plan. `k_coord` may be `[B, s_kv]`, one for each row of the batch (`hiding`). `form` says
    how kernels may check PARTIAL blocks.
    """

    row_ptr: Tensor
    col: Tensor
    block_q: int
    block_k: int
    s_q: int
    s_kv: int
    q_coord: Tensor
    k_coord: Tensor
    kind: Kind
    params: tuple[int, ...]
    table: Tensor
    pairs: int
    key: tuple = field(default=())
    form: BlockForm = LOOKED_UP

    @property
    def rows(self) -> int:
        """The number of query blocks."""
        return self.row_ptr.shape[1] - 1

    @property
    def visited(self) -> int:
        """The number of listed blocks, of all `G` plans."""
        return int(self.row_ptr[:, -1].sum())

    @cached_property
    def token_density(self) -> float:
        """The share of the pairs of real tokens that see each other."""
        real = int((self.q_coord != PAD).sum()) * int((self.k_coord != PAD).sum())
        return self.pairs / real

    @cached_property
    def block_density(self) -> float:
        """The share of the block pairs that are visited; padding counts."""
        return self.visited / (self.row_ptr.shape[0] * self.rows * -(-self.s_kv // self.block_k))

    @cached_property
    def full_share(self) -> float:
        """The share of the visited blocks that need no check."""
        return int((self.col & 1).sum()) / max(self.visited, 1)

    @cached_property
    def order(self) -> Tensor:
        """The order in which to launch rows, int32 `[NQ]`."""
        return longest_first(self.row_ptr)

    @property
    def bytes(self) -> int:
        """The bytes of all tensors of the plan."""
        return sum(x.numel() * x.element_size() for x in self._tensors().values())

    def hiding(self, seen: Tensor) -> "BlockPlan":
        """Hide all keys but `seen [B, s_kv]`, bool, from each row of a batch; blocks stay.

        FULL blocks check nothing; `PlanSpec.masked_text` keeps text out of them.
        """
        plan = replace(self, k_coord=self.k_coord.masked_fill(~seen, PAD), key=())
        vars(plan)["order"] = self.order  # the lists are the same
        return plan

    def of_rows(self, rows: slice) -> "BlockPlan":
        """Return the plan of some rows of a batch; if they hide keys, `k_coord` is `[B, 1, s_kv]`."""
        return self if self.k_coord.ndim == 1 else replace(self, k_coord=self.k_coord[rows, None])

    def to(self, device: torch.device | str) -> "BlockPlan":
        """Move the plan to another device."""
        return replace(self, **{name: x.to(device) for name, x in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: x for name, x in values.items() if isinstance(x, Tensor)}


def longest_first(row_ptr: Tensor) -> Tensor:
    """Order rows by length in units of eight blocks, longest first, neighbours together: int32 `[NQ]`."""
    longest = row_ptr.diff(dim=1).amax(0)
    return (-(longest // 8)).argsort(stable=True).int()


def from_mask(mask: Tensor, block_q: int = 64, block_k: int = 64) -> BlockPlan:
    """Make the plan of a small bool mask `[S_q, S_kv]`, looked up pair by pair in PARTIAL blocks."""
    s_q, s_kv = mask.shape
    padded = torch.nn.functional.pad(mask, (0, -s_kv % block_k, 0, -s_q % block_q))
    tiles = padded.unflatten(0, (-1, block_q)).unflatten(2, (-1, block_k))
    touched = tiles.any(3).any(1)
    below = torch.arange(padded.shape[0]).view(-1, block_q, 1, 1) >= s_q  # missing queries see nothing
    full = (tiles | below).all(3).all(1) & touched
    where = touched.nonzero(as_tuple=True)
    count = touched.sum(1)
    return BlockPlan(
        row_ptr=torch.cat([count.new_zeros(1), count.cumsum(0)]).int()[None],
        col=(where[1] << 1 | full[where]).int()[None],
        block_q=block_q,
        block_k=block_k,
        s_q=s_q,
        s_kv=s_kv,
        q_coord=torch.arange(s_q, dtype=torch.int32),
        k_coord=torch.arange(s_kv, dtype=torch.int32),
        kind=Kind.LUT,
        params=(s_q, s_kv),
        table=mask.int(),
        pairs=int(mask.sum()),
    )
