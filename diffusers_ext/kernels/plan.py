"""Block plans: which blocks of keys each block of queries visits, and what has to be checked there.

A block is EMPTY (not listed), PARTIAL (listed, its rule is checked token by token) or FULL (listed, no
check).
"""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from .geometry import PAD
from .masks import Kind


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """What a block-sparse kernel walks; `G` plans (one, or one a head) share sizes and coordinates.

    Shapes: `row_ptr int32 [G, NQ + 1]` into `col int32 [G, nnz]`, whose entries are `key block << 1 | full`,
    ascending in a row. `q_coord int32 [s_q]`, `k_coord int32 [s_kv]` are packed coordinates
    (`geometry.pack`) or sentinels: TEXT is visible to and sees all, PAD is visible to none. The rule for
    PARTIAL blocks is `masks.visible(kind, params, table, q_coord, k_coord)`; the last block of keys is never
    FULL unless the sequence fills it. `pairs` counts visible pairs of tokens, `key` names everything that
    shaped the plan. `k_coord` may be `[B, s_kv]`, one for each row of the batch (`hiding`).
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

    @property
    def rows(self) -> int:
        """Number of query blocks."""
        return self.row_ptr.shape[1] - 1

    @property
    def visited(self) -> int:
        """Listed blocks, of all `G` plans."""
        return int(self.row_ptr[:, -1].sum())

    @cached_property
    def token_density(self) -> float:
        """Share of the pairs of real tokens that see each other."""
        real = int((self.q_coord != PAD).sum()) * int((self.k_coord != PAD).sum())
        return self.pairs / real

    @cached_property
    def block_density(self) -> float:
        """Share of the block pairs that are visited; padding counts."""
        return self.visited / (self.row_ptr.shape[0] * self.rows * -(-self.s_kv // self.block_k))

    @cached_property
    def full_share(self) -> float:
        """Share of the visited blocks that need no check."""
        return int((self.col & 1).sum()) / max(self.visited, 1)

    @cached_property
    def order(self) -> Tensor:
        """int32 `[NQ]`: in which order to launch rows."""
        return longest_first(self.row_ptr)

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(x.numel() * x.element_size() for x in self._tensors().values())

    def hiding(self, seen: Tensor) -> "BlockPlan":
        """The same blocks, in which row b of a batch sees no key but `seen [B, s_kv]`, bool.

        FULL blocks do not ask; `Recipe.masked_text` keeps text out of them.
        """
        plan = replace(self, k_coord=self.k_coord.masked_fill(~seen, PAD), key=())
        vars(plan)["order"] = self.order  # the lists are the same
        return plan

    def of_rows(self, rows: slice) -> "BlockPlan":
        """The plan of some rows of a batch; `k_coord` is `[B, 1, s_kv]` where they hide keys, 1 for heads."""
        return self if self.k_coord.ndim == 1 else replace(self, k_coord=self.k_coord[rows, None])

    def to(self, device: torch.device | str) -> "BlockPlan":
        """The same plan on another device."""
        return replace(self, **{name: x.to(device) for name, x in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: x for name, x in values.items() if isinstance(x, Tensor)}


def longest_first(row_ptr: Tensor) -> Tensor:
    """int32 `[NQ]`: longest rows first, by eights, neighbours together; `row_ptr` as in `BlockPlan`."""
    longest = row_ptr.diff(dim=1).amax(0)
    return (-(longest // 8)).argsort(stable=True).int()


def from_mask(mask: Tensor, block_q: int = 64, block_k: int = 64) -> BlockPlan:
    """The plan of any bool mask `[S_q, S_kv]`, looked up pair by pair in PARTIAL blocks; small ones only."""
    s_q, s_kv = mask.shape
    padded = torch.nn.functional.pad(mask, (0, -s_kv % block_k, 0, -s_q % block_q))
    tiles = padded.unflatten(0, (-1, block_q)).unflatten(2, (-1, block_k))
    touched = tiles.any(3).any(1)
    below = torch.arange(padded.shape[0]).view(-1, block_q, 1, 1) >= s_q  # missing queries ask for nothing
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
