"""Plans of a rule list, or count, the blocks of keys that each block of queries visits.

No more than a chunk of the block matrix is in memory at once, and nothing is stored token by token.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..geometry import PAD, Grid
from ..masks.band import Band
from ..masks.band_blocks import band_blocks
from ..masks.rule import CountingRule, Kind, Rule, no_table
from .boxes import Boxes, decompose
from .cover import Cover, cover, whole_tiles
from .find_form import block_form, tiles_fit
from .plan import BlockPlan, PlanSpec, PlanStats
from .text import Held, starts, with_text

TEXT_FIELDS = {"text", "text_rows", "masked_text", "extra_keys", "text_first"}  # they leave the grid alone
KEPT = ("q_order", "k_order", "_cover")
SAMPLE = 256  # rows of an estimate


@dataclass(frozen=True)
class RulePlanSpec(PlanSpec):
    """A plan of the blocks in which `rule` has a visible pair; the rest is as in `PlanSpec`.

    `pad` fills short tiles up. Extra keys can be counted with text rows, but built only without. `snap`
    replaces the exact cover by blocks that are kept or dropped as units. For a band in raster order the rule
    is in `masks.band_blocks`; for tiles, which are filled up, it is in `masks.tile_blocks`.
    """

    rule: Rule
    grid: Grid
    text: int = 0
    block_q: int = 128
    block_k: int = 128
    q_tile: Grid | None = None
    k_tile: Grid | None = None
    pad: bool = False
    text_rows: bool = True
    snap: bool = False
    masked_text: bool = False
    extra_keys: int = 0
    text_first: bool = False

    def __post_init__(self) -> None:
        if min(self.text, self.extra_keys) < 0:
            raise ValueError(
                f"A plan needs 0 or more text tokens, got {self.text}, and far keys, got "
                f"{self.extra_keys}; use 0 where there is none."
            )
        if min(self.grid) < 1:
            raise ValueError(f"A grid needs at least one token on each axis, got {self.grid}.")
        if self.snap and not (self._by_majority or self._tile_a_block):
            raise ValueError(
                "Whole blocks are kept of a band, in raster order and with blocks as wide as high, or of "
                "filled-up tiles with a block each; leave snap out."
            )
        if self.text_first and not self._text_can_lead:
            raise ValueError(
                "Text comes first among keys only, without far keys and without whole blocks of a band; "
                "leave text_first out."
            )

    @property
    def _text_can_lead(self) -> bool:
        return super()._text_can_lead and not (self.snap and self._by_majority)

    @cached_property
    def q_order(self) -> Tensor:
        """The raster number of the grid token at each query place, -1 for padding; text is not listed."""
        return self._order(self.q_tile)

    @cached_property
    def k_order(self) -> Tensor:
        """The raster number of the grid token at each key place, -1 for padding; text is not listed."""
        return self.q_order if self.k_tile == self.q_tile else self._order(self.k_tile)

    def _order(self, tile: Grid | None) -> Tensor:
        return geometry.raster(self.grid) if tile is None else geometry.tile_major(self.grid, tile, self.pad)

    def build(self, device: torch.device | str = "cpu") -> BlockPlan:
        """List the blocks; raises `ValueError` if kernels cannot run the plan."""
        geometry.check_grid(self.grid)
        if self.extra_keys and self.text_rows and self.text:
            raise ValueError(
                f"Kernels cannot hide the {self.extra_keys} far keys from text queries, got a plan with "
                f"{self.text} of those; build it with text_rows=False and attend from text apart."
            )
        q_text, k_text = self._texts()
        q_coord = geometry.coded(self.q_order, self.grid, q_text)
        k_coord = geometry.coded(self.k_order, self.grid, k_text + self.extra_keys)
        k_coord = k_coord.roll(self.text) if self.text_first else k_coord
        count = self._listed.count
        asks = F.pad(q_coord != PAD, (0, -len(q_coord) % self.block_q)).view(-1, self.block_q).any(1)
        if empty := int(((count == 0) & asks).sum()):
            raise ValueError(
                f"{empty} blocks of queries see no key at all, and their softmax would be empty; widen the "
                "rule."
            )
        plan = BlockPlan(
            row_ptr=starts(count).int()[None],
            col=self._listed.entries[None],
            block_q=self.block_q,
            block_k=self.block_k,
            s_q=len(q_coord),
            s_kv=len(k_coord),
            q_coord=q_coord,
            k_coord=k_coord,
            kind=self.kind,
            params=() if self.snap else self.rule.params,
            table=no_table() if self.snap else self.rule.table(),
            pairs=self.pairs,
            key=(replace(self), str(device)),  # a bare copy, without lists
        )
        form = block_form(plan, self.grid, self.q_tile, self.k_tile)
        return replace(plan, form=form).to(device)

    @cached_property
    def stats(self) -> PlanStats:
        """The counts of the plan, without building it; also for grids that no kernel can address."""
        (q_text, k_text), entries = self._texts(), self._listed.entries
        s_q, s_kv = len(self.q_order) + q_text, len(self.k_order) + k_text + self.extra_keys
        return self._stats(s_q, s_kv, len(entries), int((entries & 1).sum()))

    @cached_property
    def estimate(self) -> PlanStats:
        """The counts of the grid alone, from evenly spaced rows if there are many; to compare plans by."""
        q, k = self._boxes
        rows = torch.arange(0, len(q.there), -(-len(q.there) // SAMPLE))
        some = len(rows) < len(q.there)
        entries = cover(self.rule, q, k, rows).entries if some else self._cover.entries
        checked = Held.of(self.k_order, 0, 0, self.block_k).hidden[(entries >> 1).long()]
        found = len(entries), int((entries & 1).bool().logical_and(~checked).sum())
        visited, full = (round(n * len(q.there) / len(rows)) for n in found)
        return self._stats(len(self.q_order), len(self.k_order), visited, full)

    @property
    def plan_bytes(self) -> int:
        """The bytes of the tensors of the plan and of the order of its rows, all int32."""
        stats, table = self.stats, 0 if self.snap else self.rule.table().numel()
        return 4 * (2 * -(-stats.s_q // self.block_q) + 1 + stats.visited + stats.s_q + stats.s_kv + table)

    def bitmap(self) -> Tensor:
        """Mark visited blocks: bool `[NQ, NK]`, for as many as fit memory."""
        count, entries = self._listed.count, self._listed.entries
        marked = torch.zeros(len(count), -(-self.stats.s_kv // self.block_k), dtype=torch.bool)
        marked[torch.arange(len(count)).repeat_interleave(count), (entries >> 1).long()] = True
        return marked

    @property
    def kind(self) -> Kind:
        """The rule that PARTIAL blocks check; kept blocks check only which keys there are."""
        return Kind.NONE if self.snap else self.rule.kind

    @property
    def computed(self) -> bool:
        """Return whether kernels need no coordinates of single tokens, as `BlockPlan.form` will say."""
        if self.kind == Kind.NONE:
            return True
        if self.text_rows and self.text:
            return False
        if self.kind == Kind.BAND:
            frame = self.grid[1] * self.grid[2]
            return self.q_tile is self.k_tile is None and max(self.block_q, self.block_k) <= frame
        return tiles_fit(
            self.kind, self.grid, self.pad, (self.block_q, self.q_tile), (self.block_k, self.k_tile)
        )

    @property
    def pairs(self) -> int:
        """The number of pairs of tokens that see each other."""
        return (self._kept_pairs if self.snap else self.rule.pairs(self.grid)) + self._text_pairs()

    def changed(self, **changes: Any) -> Self:
        """Return the plan with other text, keeping its cover of the grid."""
        other = super().changed(**changes)
        if changes.keys() <= TEXT_FIELDS:
            vars(other).update({name: getattr(self, name) for name in KEPT})
        return other

    def _texts(self) -> tuple[int, int]:
        return self.text if self.text_rows else 0, self.text

    @cached_property
    def _cover(self) -> Cover:
        """The blocks of grid tokens; text adds others."""
        if self.snap and self._by_majority:
            frames, *sides = self.grid
            kept = band_blocks(self.rule, frames, math.prod(sides), self.block_k)
            return Cover(kept.sum(1), (kept.nonzero()[:, 1] << 1 | 1).int())
        exact = cover(self.rule, *self._boxes)
        return whole_tiles(self.rule, *self._boxes, exact) if self.snap else exact

    @cached_property
    def _boxes(self) -> tuple[Boxes, Boxes]:
        """The boxes of the blocks of queries and of keys."""
        sides = (self.q_order, self.block_q), (self.k_order, self.block_k)
        alike = self.block_q == self.block_k and self.q_order.equal(self.k_order)
        found = [
            decompose(self.rule.axes(*geometry.coordinates(order, self.grid)), order >= 0, block)
            for order, block in sides[: 1 if alike else 2]
        ]
        return found[0], found[-1]

    @cached_property
    def _listed(self) -> Cover:
        """All blocks of the plan."""
        q_text, k_text = self._texts()
        q = Held.of(self.q_order, q_text, 0, self.block_q)
        k = Held.of(self.k_order, k_text, self.extra_keys, self.block_k, self.text_first)
        return with_text(self._cover, q, k, self.masked_text, self.snap)

    @cached_property
    def _kept_pairs(self) -> int:
        """The number of pairs of grid tokens in the blocks that are kept."""
        count, entries = self._listed.count, self._listed.entries
        q_text, k_text = self._texts()
        queries = _held(self.q_order, q_text, self.block_q)
        keys = _held(self.k_order, k_text + self.extra_keys, self.block_k)
        keys = keys.roll(self.text // self.block_k) if self.text_first else keys
        return int((queries.repeat_interleave(count) * keys[(entries >> 1).long()]).sum())

    @property
    def _by_majority(self) -> bool:
        raster = self.q_tile is None and self.k_tile is None
        return raster and isinstance(self.rule, Band) and self.block_q == self.block_k

    @property
    def _tile_a_block(self) -> bool:
        tiles = (self.q_tile, self.block_q), (self.k_tile, self.block_k)
        fits = all(tile is not None and math.prod(tile) == block for tile, block in tiles)
        return fits and self.pad and isinstance(self.rule, CountingRule)


def _held(order: Tensor, others: int, block: int) -> Tensor:
    """Count the grid tokens of each block, `[blocks]`; `others` come behind them."""
    return F.pad(order >= 0, (0, others + -(len(order) + others) % block)).view(-1, block).sum(1)
