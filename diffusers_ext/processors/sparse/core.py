"""The core of sparse methods decides whether a plan runs, puts tokens in its order and back, and runs it.

Nothing is gathered if tokens are in plan order already. That is so if the plan has raster order, and if the
denoiser runs in plan order for the entire call (`RunContext.reordered`). Text queries always run through the
attention below. All queries do so in dense steps, if the rule hides nothing, and if a plan promises no gain.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core import Core, Layout, Order, OrderingCore, RunContext, Site
from ...errors import UnsupportedError
from ...kernels.block_sparse import api
from ...kernels.block_sparse.autocast import dtype_of
from ...kernels.block_sparse.capabilities import Choice, Request, choose, why_not
from ...kernels.block_sparse.gains import WORTH_COMPILING, device_class, saved_by_compiling
from ...kernels.geometry import Grid
from ...kernels.plan.plan import PlanSpec
from ...kernels.plan.spec import RulePlanSpec
from .method import SparseMethod
from .placement import PlacedPlan, place

log = logging.getLogger("diffusers_ext")


class SparseCore(OrderingCore):
    """Attention of one site over the blocks of a plan."""

    def __init__(self, method: SparseMethod, site: Site, run: RunContext, inner: Core) -> None:
        self.method = method
        self.site = site
        self.run = run
        self.inner = inner
        self.dense = False
        self.begun = False  # whether there was a call outside the dense steps
        # by grid, text and device; made before the call if the run has a layout, not in compiled code
        self.ready: dict[tuple[Grid, int, torch.device], PlacedPlan] = {}
        self.latents: tuple[torch.device, torch.dtype] | None = None  # of the plans that are ready
        self.begun_with: PlacedPlan | None = None  # the plan of the call that has begun
        self.begun_layout: Layout | None = None  # the layout of that call, and how many tokens it has
        self.begun_tokens = 0
        self.last: PlacedPlan | None = None

    def begin_call(self, like: Tensor) -> None:
        """Read the step and make the plan, before each call of the denoiser and outside compiled code.

        Dense steps get a plan as well, so that sizes that do not fit are refused before the first of them.
        """
        self.dense = self.method.is_dense_step(self.run)
        self.begun |= not self.dense
        layout, latents = self.run.layout, (like.device, dtype_of(like))
        if layout is not None and layout is self.begun_layout and latents == self.latents:
            return  # all is as in the call before, as in nearly every call of a run
        self.begun_layout = self.begun_with = None
        if layout is None:
            return
        if self.latents != latents:
            self.ready.clear()
            self.latents = latents
        mine = Layout(layout.grid, slice(0, 0), layout.vision) if self.site.kind == "self" else layout
        self.begun_with, self.begun_layout = self._cached_plan(*latents, mine), layout
        self.begun_tokens = mine.tokens + mine.text.stop - mine.text.start

    def order(self) -> Order | str | None:
        """Return the order of the plan, or why there is none; `None` if attention stays dense."""
        if self.dense or self.begun_with is None:
            return None
        order = self.begun_with.order
        return f"{self.method.name} {order}" if isinstance(order, str) else order

    def describe(self) -> dict[str, Any]:
        """Report what ran last."""
        placed = self.last or (next(iter(self.ready.values()), None) if self.begun else None)
        if placed is None:
            return {"why": "dense steps so far" if self.dense else "not called yet"}
        names = "backend", "why", "density", "full_share", "pairs"
        # The order of a call is for the grid that it began with; coarser grids of a U-Net have none.
        note = self.run.order_note if placed is self.begun_with else None
        order = (
            "tokens are in order already"
            if placed.in_plan_order
            else note or "tokens put in order in every layer"
        )
        facts = {name: getattr(placed, name) for name in names} | {"order": order if placed.plan else ""}
        if failed := getattr(placed.compiled, "failed", ""):
            facts |= {"backend": "reference", "why": failed}
        return facts

    def acted(self) -> bool:
        """Return whether the call that ends now went over a plan; in compiled code, the last plan known."""
        placed = self.last or self.begun_with
        return not self.dense and placed is not None and placed.plan is not None

    def idle(self) -> str | None:
        """Return why a run was that of the plain model, or `None`; what `auto` decides is in the log."""
        if self.dense:  # dense steps come first, so all steps of the run were dense
            return (
                f"dense_steps={self.method.dense_steps} keeps all of its {self.run.steps} steps dense; lower "
                "it, or run more steps"
            )
        placed = self.last or self.begun_with
        return placed.why if placed is not None and placed.plan is None and not placed.logged else None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        placed = self._plan_of(q, k, mask, layout)  # also in dense steps, for its checks
        if self.dense:
            return self.inner(q, k, v, mask, layout)
        if not torch.compiler.is_compiling():
            self.last = placed
        if placed.plan is None:
            return self.inner(q, k, v, mask, layout)
        if self.run.reordered:
            placed = replace(placed, in_plan_order=True)
        if mask is not None:
            placed = placed.hiding(mask, q.shape[0], layout)
        keys, values = self.in_order(k, placed, layout), self.in_order(v, placed, layout)
        if placed.in_plan_order:
            out = self.attend(q[:, layout.vision], keys, values, placed)
        else:
            out = self.attend(q.index_select(1, placed.queries), keys, values, placed)
            out = out.index_select(1, placed.inverse)
        if not placed.text:
            return out
        text = self.inner(q[:, layout.text], k, v, mask, layout)
        first = layout.text.start < layout.vision.start
        return torch.cat([text, out] if first else [out, text], dim=1)

    def in_order(self, x: Tensor, placed: PlacedPlan, layout: Layout) -> Tensor:
        """Bring keys or values `[B, N, H, D]` into plan order, extra ones behind."""
        return placed.in_order(x, layout)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, placed: PlacedPlan) -> Tensor:
        """Attend over tokens that are in plan order."""
        return self.operator(placed)(q, k, v, placed.plan)[0]

    def operator(self, placed: PlacedPlan) -> Callable[..., tuple[Tensor, Tensor]]:
        """Return attention over a plan on the back-end that was chosen."""
        if placed.compiled is not None:
            return placed.compiled
        return partial(api.attention, triton=placed.backend == "triton")

    def _plan_of(self, q: Tensor, k: Tensor, mask: Tensor | None, layout: Layout | None) -> PlacedPlan:
        if layout is None:
            return PlacedPlan((0, 0, 0), 0, "the grid of these tokens is not known")
        if mask is None and self._is_as_begun(q, k, layout):
            return self.begun_with
        text = layout.text.stop - layout.text.start
        if mask is not None and not layout.masked_text:
            raise UnsupportedError(
                f"{self.method.name} decides itself who sees whom, but {self.site.path} came with an "
                "attention mask; leave the mask out, or apply it to other modules."
            )
        if not q.shape[1] == k.shape[1] == layout.tokens + text:
            raise UnsupportedError(
                f"{self.method.name} expects {layout.tokens} grid tokens and {text} text tokens at "
                f"{self.site.path}, got {q.shape[1]} queries and {k.shape[1]} keys; undo what else "
                "lengthens the sequence."
            )
        placed = self.ready.get((layout.grid, text, q.device))
        # Compiled code takes the plan made for the latents' dtype, since it cannot make one.
        if placed is None or (not torch.compiler.is_compiling() and placed.dtype != dtype_of(q)):
            return self._cached_plan(q.device, dtype_of(q), layout)
        return placed

    def _is_as_begun(self, q: Tensor, k: Tensor, layout: Layout) -> bool:
        """Return whether the plan of the call is for these tokens; compiled code asks the longer way.

        To compare layouts by identity would cost it a graph for each size.
        """
        return (
            not torch.compiler.is_compiling()
            and layout is self.begun_layout
            and q.shape[1] == k.shape[1] == self.begun_tokens
            and (q.device, q.dtype) == self.latents
        )

    def _cached_plan(self, device: torch.device, dtype: torch.dtype, layout: Layout) -> PlacedPlan:
        if (why := self.method.why_not(self.site, layout)) is not None:
            if not layout.raster:
                raise UnsupportedError(
                    f"{why}; leave them out, or use a method without a grid, such as softpag."
                )
            raise UnsupportedError(f"{why}; choose a size and settings that fit, or another method.")
        span = (layout.text.start, layout.text.stop) if layout.text.start < layout.text.stop else (0, 0)
        key = (self.method, layout.grid, span, layout.masked_text, self.site.head_dim, device, dtype)
        if key not in self.run.plans:
            self.run.plans[key] = self._decide(layout, device, dtype)
        placed = self.run.plans[key]
        self.ready[placed.grid, placed.text, device] = placed
        return placed

    def _decide(self, layout: Layout, device: torch.device, dtype: torch.dtype) -> PlacedPlan:
        """Choose the back-end, and decide between its plan and dense attention."""
        method, tokens, text = self.method, layout.tokens, layout.text.stop - layout.text.start
        spec = method.plan_spec(layout.grid, text, text_rows=False)
        blocks = spec.block_q, spec.block_k
        try:
            choice = choose(Request(device, dtype, self.site.head_dim, blocks), method.backend)
        except ValueError as error:
            raise UnsupportedError(f"{method.name}: {error}") from error
        if method.backend == "auto" and choice.name == "reference" and not layout.masked_text:
            choice = self._compiling(spec, Request(device, dtype, self.site.head_dim, blocks)) or choice
        if choice.name == "flex" and layout.masked_text:
            raise UnsupportedError(
                f"{method.name}: the FlexAttention back-end compiles a plan in, and cannot hide the padding "
                "of each prompt; use auto, triton or reference."
            )
        if not spec.extra_keys and spec.pairs == tokens * (tokens + text):
            return PlacedPlan(layout.grid, text, f"{method.name} hides nothing on this grid", dtype=dtype)
        why = method.expect(spec, choice.name, device_class(device)) if method.backend == "auto" else None
        if why is not None:
            grid = "x".join(map(str, layout.grid))
            log.warning("%s stays dense on a grid of %s: %s.", method.name, grid, why)
            return PlacedPlan(layout.grid, text, why, dtype=dtype, logged=True)
        if layout.masked_text:
            spec = spec.changed(masked_text=True)
        try:
            placed = place(spec, choice, layout, device)
        except ValueError as error:  # a grid that plans cannot address
            raise UnsupportedError(f"{method.name}: {error}") from error
        return replace(placed, dtype=dtype)

    def _compiling(self, spec: PlanSpec, request: Request) -> Choice | None:
        """Return FlexAttention if a run on a CPU saves enough by it to be worth compiling, or `None`."""
        learns = torch.is_grad_enabled()  # it has no gradients there
        one_plan = isinstance(spec, RulePlanSpec)
        if request.device.type != "cpu" or learns or not one_plan or why_not("flex", request) is not None:
            return None
        calls = (self.run.steps or 1) * self.run.layers
        saved = saved_by_compiling(spec, self.site.heads, request.head_dim, calls)
        if saved < WORTH_COMPILING:
            return None
        return Choice("flex", f"compiled, to save some {saved / 60:.0f} minutes of attention", spare=True)
