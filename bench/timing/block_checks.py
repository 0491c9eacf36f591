"""Check inputs and outputs of the attention of a slice, row by row, against explicit masks.

Masks are made from the rule alone, in the pipeline's order of tokens. So they share neither order nor blocks
with the plan that they check.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusers_ext.core import Core, Layout, Order, RunContext, Site
from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.kernels.masks.visible import visible
from diffusers_ext.processors.record import RecordAttention
from diffusers_ext.processors.rectified import RectifiedCore
from diffusers_ext.processors.sparse.core import SparseCore

from .reference_rows import rectified_error, row_error, sample


@dataclass(frozen=True, eq=False)
class Call:
    """Hold one call of attention: `q, k, v, out [B, N, H, D]`, the mask of the pipeline and the layout.

    `order` is the one in which grid tokens were, if it is not raster order.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    layout: Layout
    out: Tensor
    order: Order | None = None

    @property
    def given(self) -> tuple[Any, ...]:
        """Return the arguments of a core."""
        return self.q, self.k, self.v, self.mask, self.layout

    @property
    def raster(self) -> "Call":
        """The same call with its grid tokens in raster order."""
        if self.order is None:
            return self
        moved = {name: self._put_back(getattr(self, name)) for name in ("q", "k", "v", "out")}
        return replace(self, order=None, **moved)

    def _put_back(self, x: Tensor) -> Tensor:
        out = x.clone()
        out[:, self.layout.vision] = x[:, self.layout.vision].index_select(1, self.order.places)
        return out


@dataclass(frozen=True)
class RecordCalls(RecordAttention):
    """Record the last call of every self- and joint attention module, by name in `kept`.

    It takes tokens in any order, so a session puts them in order as it does without it.
    """

    name: ClassVar[str] = "record_calls"
    reads_layout: ClassVar[bool] = True
    order_free: ClassVar[bool] = True

    kept: dict[str, Call] = field(default_factory=dict, compare=False)

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        def core(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
            out = inner(q, k, v, mask, layout)
            self.kept[site.name] = Call(q, k, v, mask, layout, out, run.order)
            return out

        return core


def call_error(core: SparseCore, call: Call) -> float:
    """Return the RMS error of sampled rows of a call, over their RMS."""
    call = call.raster
    if isinstance(core, RectifiedCore):
        return max(_rectified_error(core, call), _text_error(call))
    rows = sample(call.q.shape[1], call.q.device)
    k, v, seen = call.k, call.v, row_mask(core, call, rows)
    if edge := getattr(core.method, "downsample", 0):
        k, v = (torch.cat([x, _cells(x, call.layout, edge)], 1) for x in (k, v))
    return row_error(call.q[:, rows], k, v, call.out[:, rows], seen)


def row_mask(core: SparseCore, call: Call, rows: Tensor) -> Tensor:
    """Return which keys some rows see, bool `[B or 1, 1, R, S]`.

    Pooled keys come last, and only the grid sees them.
    """
    layout, device = call.layout, call.q.device
    text = layout.text.stop - layout.text.start
    spec = core.method.plan_spec(layout.grid, text, text_rows=False)
    rule = spec.rule
    places = torch.full((call.q.shape[1],), geometry.TEXT, dtype=torch.int32)
    places[layout.vision] = geometry.coded(geometry.raster(layout.grid), layout.grid)
    places = places.to(device)
    table = rule.table().to(device)
    seen = visible(rule.kind, rule.params, table, places[rows, None], places[None])[None, None]
    if call.mask is not None:
        seen = seen & call.mask
    pooled = (places[rows] != geometry.TEXT)[:, None].expand(-1, spec.extra_keys)
    return torch.cat([seen, pooled.expand(*seen.shape[:2], -1, -1)], -1)


def _cells(x: Tensor, layout: Layout, edge: int) -> Tensor:
    """Return means of cells of `x [B, N, H, D]`, which are pooled tokens with uniform weights."""
    channels_first = x[:, layout.vision].float().unflatten(1, layout.grid[1:]).permute(0, 3, 4, 1, 2)
    pooled = torch.nn.functional.avg_pool2d(channels_first.flatten(1, 2), edge)
    return pooled.unflatten(1, x.shape[2:]).flatten(3).permute(0, 3, 1, 2).to(x.dtype)


def _rectified_error(core: RectifiedCore, call: Call) -> float:
    placed = core.last
    if call.mask is not None:
        placed = placed.hiding(call.mask, call.q.shape[0], call.layout)
    q, out = (x.index_select(1, placed.queries) for x in (call.q, call.out))
    k, v = (core.in_order(x, placed, call.layout) for x in (call.k, call.v))
    found = select(q, k, v, placed.plan, core.method.p_remaining)
    return rectified_error(q, k, v, out, placed.plan, found)


def _text_error(call: Call) -> float:
    """Return the error of the rows of text, which see all keys."""
    text = call.layout.text
    if text.start == text.stop:
        return 0.0
    seen = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=call.q.device) if call.mask is None else call.mask
    return row_error(call.q[:, text], call.k, call.v, call.out[:, text], seen)
