"""Make the call of attention of a case as a session makes it, with random tensors and without a model.

The core of the method is the one that sessions bind, so it decides plan, tiles and back-end here as well. Its
parts are timed one by one: the kernel, the queries of the text, and what puts tokens in order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from diffusers_ext.core import Layout, Order, RunContext, Site
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.processors.rectified import RectifiedCore
from diffusers_ext.processors.sparse.core import SparseCore
from diffusers_ext.processors.sparse.placement import PlacedPlan

from .block_cases import Case
from .block_checks import Call, call_error
from .forms import LOOKED, SHIPPED

Dense = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Attention:
    """The attention of a model: heads, channels of a head, and where its text is in the sequence.

    `family` is the file of its family, which knows whether tokens can be put in order once a call.
    """

    family: str
    heads: int
    channels: int
    text_first: bool = False
    masked_text: bool = False


# By name of the preset; published configurations, as in `slices.py`.
ATTENTION = {
    "flux.1": Attention("flux", 24, 128, text_first=True),
    "sd3.5": Attention("sd3", 24, 64),
    "wan2.1": Attention("wan", 40, 128),
    "hunyuan-video": Attention("hunyuan_video", 24, 128, masked_text=True),
    "mochi": Attention("mochi", 24, 128, masked_text=True),
}
TINY = {"heads": 2, "channels": 32}


class SessionCall:
    """One call of attention under a session: `q, k, v [1, N, H, D]` and the core of a method.

    `dense` computes attention over all pairs. No prompt has padding, so it gets no mask, which would slow it.
    """

    def __init__(self, case: Case, device: str, dense: Dense) -> None:
        facts = replace(ATTENTION[case.model], **(TINY if case.tiny else {}))
        self.dense = dense
        self.layout = layout(case, facts)
        n = self.layout.tokens + case.grid.text
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        g = torch.Generator(device).manual_seed(0)
        shape = 1, n, 3, facts.heads, facts.channels
        self.q, self.k, self.v = torch.randn(shape, generator=g, device=device, dtype=dtype).unbind(2)
        self.run = RunContext()
        self.run.layout = self.layout
        site = Site("attn", 0, facts.heads, facts.channels, "joint" if case.grid.text else "self")
        self.core: SparseCore = case.method.bind(site, self.run, self._inner)
        self.core.begin_call(self.q)
        self.placed: PlacedPlan = self.core.begun_with
        axes = import_module(f"diffusers_ext.families.{facts.family}").FAMILY.token_axes
        self.once = axes is not None and isinstance(self.core.order(), Order)
        self.spec = case.method.plan_spec(self.layout.grid, case.grid.text, text_rows=False)

    def _inner(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        return self.dense(q, k, v)

    def everything(self) -> Tensor:
        """Run the core as sessions do, where tokens are put in order once a call if that is possible."""
        self.run.reordered = self.once
        try:
            return self.core(self.q, self.k, self.v, None, self.layout)
        finally:
            self.run.reordered = False

    @cached_property
    def in_order(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values in the order of the plan."""
        keys = (self.core.in_order(x, self.placed, self.layout) for x in (self.k, self.v))
        return self.q.index_select(1, self.placed.queries), *keys

    def kernel(self) -> Tensor:
        """Run what is left with tokens in order; with a choice of blocks by the data, that is included."""
        return self.core.attend(*self.in_order, self.placed)

    def choice(self) -> object:
        """Choose blocks by the data, as rectified attention does before its kernel runs."""
        return select(*self.in_order, self.placed.plan, self.core.method.p_remaining)

    def text(self) -> Tensor:
        """Run the queries of the text, which see all keys."""
        return self.dense(self.q[:, self.layout.text], self.k, self.v)

    def gathers(self) -> object:
        """Put queries, keys and values in order and a result back, as every layer does if none did before."""
        placed = self.placed if not self.once else replace(self.placed, in_plan_order=True)
        keys = [self.core.in_order(x, placed, self.layout) for x in (self.k, self.v)]
        if placed.in_plan_order:
            return keys
        q = self.q.index_select(1, placed.queries)
        return keys, q.index_select(1, placed.inverse)

    def error(self) -> float:
        """Return the error of sampled rows of the result, text included, against explicit masks."""
        out = self.core(self.q, self.k, self.v, None, self.layout)
        return call_error(self.core, Call(self.q, self.k, self.v, None, self.layout, out))

    def facts(self) -> dict[str, Any]:
        """Return the densities of the call, and whether tokens are put in order once."""
        stats, found = self.spec.stats, self.core.describe()
        cost, full = stats.cost, found["full_share"]
        if isinstance(self.core, RectifiedCore):
            _, _, _, kept = self.core.counts.tolist()
            heads, rows, columns = self.q.shape[2], *self.placed.plan.always.shape
            cost = kept / heads / (rows * (columns + -(-self.spec.text // self.spec.block_k)))
        plan = self.placed.plan
        form = LOOKED if plan.form.looked_up and not plan.form.computed else SHIPPED
        return {
            "rule": plan.kind.name.lower(), "form": form, "block_q": plan.block_q, "block_k": plan.block_k,
            "token_density": found["density"], "cost": cost, "full_share": full,
            "backend": found["backend"], "once": self.once or self.placed.in_plan_order,
        }  # fmt: skip


def layout(case: Case, facts: Attention) -> Layout:
    """Return where text and grid are in the sequence of a case."""
    grid, text = case.grid.shape, case.grid.text
    tokens = grid[0] * grid[1] * grid[2]
    if not text:
        return Layout(grid, slice(0, 0), slice(0, tokens))
    if facts.text_first:
        return Layout(grid, slice(0, text), slice(text, text + tokens), facts.masked_text)
    return Layout(grid, slice(tokens, tokens + text), slice(0, tokens), facts.masked_text)
