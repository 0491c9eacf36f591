"""Plans of a rule list, or count, the blocks of keys that each block of queries visits.

No more than a chunk of the block matrix is in memory at once, and nothing is stored token by token.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .. import geometry
from ..geometry import PAD, Grid
from ..masks.band import Band
from ..masks.band_blocks import band_blocks
from ..masks.rule import CountingRule, Kind, Rule, no_table
from ..masks.tile_blocks import tile_blocks
from .cover import CHUNK, Boxes, classify, decompose
from .find_form import block_form
from .plan import BlockPlan, PlanSpec, PlanStats


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
        return self._order(self.k_tile)

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
        counts, columns = [], []
        for touched, full in self._walk():
            counts.append(touched.sum(1))
            where = touched.nonzero(as_tuple=True)
            columns.append((where[1] << 1 | full[where]).int())
        count = torch.cat(counts)
        q_coord, k_coord = (
            geometry.coded(order, self.grid, text)
            for order, text in zip(self._orders(), self._texts(), strict=True)
        )
        k_coord = k_coord.roll(self.text) if self.text_first else k_coord
        asks = torch.nn.functional.pad(q_coord != PAD, (0, -len(q_coord) % self.block_q))
        empty = int(((count == 0) & asks.view(-1, self.block_q).any(1)).sum())
        if empty:
            raise ValueError(
                f"{empty} blocks of queries see no key at all, and their softmax would be empty; widen the "
                "rule."
            )
        plan = BlockPlan(
            row_ptr=torch.cat([count.new_zeros(1), count.cumsum(0)]).int()[None],
            col=torch.cat(columns)[None],
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
            key=(self, str(device)),
        )
        form = block_form(plan, self.grid, self.q_tile, self.k_tile)
        return replace(plan, form=form).to(device)

    @cached_property
    def stats(self) -> PlanStats:
        """The counts of the plan, without building it; also for grids that no kernel can address."""
        for _ in self._walk():
            pass
        return vars(self)["stats"]

    @property
    def plan_bytes(self) -> int:
        """The bytes of the tensors of the plan and of the order of its rows, all int32."""
        stats, table = self.stats, 0 if self.snap else self.rule.table().numel()
        return 4 * (2 * -(-stats.s_q // self.block_q) + 1 + stats.visited + stats.s_q + stats.s_kv + table)

    def bitmap(self) -> Tensor:
        """Mark visited blocks: bool `[NQ, NK]`, for as many as fit memory."""
        return torch.cat([touched for touched, _ in self._blocks()])

    @property
    def kind(self) -> Kind:
        """The rule that PARTIAL blocks check; kept blocks check only which keys there are."""
        return Kind.NONE if self.snap else self.rule.kind

    @property
    def pairs(self) -> int:
        """The number of pairs of tokens that see each other."""
        return (self._kept_pairs if self.snap else self.rule.pairs(self.grid)) + self._text_pairs()

    def _orders(self) -> tuple[Tensor, Tensor]:
        return self.q_order, self.k_order

    def _texts(self) -> tuple[int, int]:
        return self.text if self.text_rows else 0, self.text + self.extra_keys

    def _decompose(self, order: Tensor, text: int, block: int, first: bool) -> Boxes:
        axes = self.rule.axes(*geometry.coordinates(order, self.grid))
        is_text = torch.arange(len(order) + text) >= len(order)
        flags = is_text, torch.cat([order < 0, is_text.new_zeros(text)])
        axes = tuple(torch.cat([x, x.new_zeros(text)]) for x in axes)
        if first:
            axes, flags = (tuple(x.roll(text) for x in part) for part in (axes, flags))
        return decompose(axes, *flags, block)

    def _walk(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `_blocks` does, and store the counts at the end."""
        visited = unchecked = 0
        kept, held = [], self._held_keys() if self.snap else None
        for touched, full in self._blocks():
            visited += int(touched.sum())
            unchecked += int((touched & full).sum())
            if self.snap:
                kept.append(touched.double() @ held)
            yield touched, full
        s_q, s_kv = (len(order) + text for order, text in zip(self._orders(), self._texts(), strict=True))
        vars(self)["stats"] = self._stats(s_q, s_kv, visited, unchecked)
        if self.snap:
            queries = _held(self.q_order >= 0, self._texts()[0], self.block_q)
            vars(self)["_kept_pairs"] = int(queries @ torch.cat(kept))

    def _held_keys(self) -> Tensor:
        """Count grid tokens of each block of keys, `[NK]`, float64."""
        held = _held(self.k_order >= 0, self._texts()[1], self.block_k)
        return held.roll(self.text // self.block_k) if self.text_first else held

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `touched, full`, bool `[rows, NK]`, for chunks of query blocks."""
        sizes = (self.block_q, self.block_k)
        q, k = (
            self._decompose(order, text, block, first)
            for order, text, block, first in zip(
                self._orders(), self._texts(), sizes, (False, self.text_first), strict=True
            )
        )
        begins = torch.arange(len(k.text)) * self.block_k
        extra = len(self.k_order) + self.text  # the first place of extra keys
        only_extra, some_extra = begins >= extra, (begins + self.block_k > extra) & bool(self.extra_keys)
        band = self._band_blocks(q, k) if self.snap and self._by_majority else None
        for rows in torch.arange(len(q.text)).split(max(1, CHUNK // len(k.text))):
            if self.snap:
                touched = self._tiles(q, k, rows) if band is None else band[rows]
                full = torch.ones_like(touched)
            else:
                touched, full = classify(self.rule, q, k, rows)
            some_key = k.text | k.vision
            touched |= (q.text[rows, None] & some_key & ~only_extra) | (k.text & q.vision[rows, None])
            asked = k.hidden | k.text if self.masked_text else k.hidden
            asked = asked | (q.text[rows, None] & some_extra)
            yield touched, full & touched & ~asked

    def _band_blocks(self, q: Boxes, k: Boxes) -> Tensor:
        """Mark the blocks of a band that are kept: bool `[NQ, NK]`."""
        frames, *sides = self.grid
        blocks = band_blocks(self.rule, frames, math.prod(sides), self.block_k)
        return torch.nn.functional.pad(
            blocks, (0, len(k.text) - blocks.shape[1], 0, len(q.text) - len(blocks))
        )

    def _tiles(self, q: Boxes, k: Boxes, rows: Tensor) -> Tensor:
        """Mark the tiles that are kept: bool `[rows, NK]`."""
        kept = torch.zeros(len(rows), len(k.text), dtype=torch.bool)
        mine, theirs = (x.nonzero(as_tuple=True)[0] for x in (q.vision[rows], k.vision))
        corners = q.outer_lo[rows[mine]], q.outer_hi[rows[mine]], k.outer_lo[theirs], k.outer_hi[theirs]
        kept[mine[:, None], theirs] = tile_blocks(self.rule, *corners)
        return kept

    @cached_property
    def _kept_pairs(self) -> int:
        """The number of pairs of grid tokens in the blocks that are kept."""
        for _ in self._walk():
            pass
        return vars(self)["_kept_pairs"]

    @property
    def _by_majority(self) -> bool:
        raster = self.q_tile is None and self.k_tile is None
        return raster and isinstance(self.rule, Band) and self.block_q == self.block_k

    @property
    def _tile_a_block(self) -> bool:
        tiles = (self.q_tile, self.block_q), (self.k_tile, self.block_k)
        fits = all(tile is not None and math.prod(tile) == block for tile, block in tiles)
        return fits and self.pad and isinstance(self.rule, CountingRule)


def _held(there: Tensor, others: int, block: int) -> Tensor:
    """Count the places of each block that are `there`, `[blocks]`, float64; `others` come behind them."""
    there = torch.nn.functional.pad(there, (0, others + -(len(there) + others) % block))
    return there.view(-1, block).double().sum(1)
