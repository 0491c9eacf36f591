"""The core of sparse methods: puts tokens in the order of a plan, runs the plan, puts them back.

Nothing is gathered where tokens lie in that order already, be it the host's (raster), be it that a whole call
runs in it (`RunContext.hoisted`). Text queries always run through the attention below, as do whole calls in
dense steps, where the rule hides nothing, and where a plan promises no gain.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core import Core, Layout, Order, OrderingCore, RunContext, Site
from ..errors import UnsupportedError
from ..kernels.block_sparse import ops
from ..kernels.block_sparse.autocast import dtype_of
from ..kernels.geometry import Grid
from .laid import Laid, lay_out

if TYPE_CHECKING:
    from .sparse import SparseMethod


class SparseCore(OrderingCore):
    """Attention of one site over the blocks of a plan."""

    def __init__(self, method: "SparseMethod", site: Site, run: RunContext, inner: Core) -> None:
        self.method = method
        self.site = site
        self.run = run
        self.inner = inner
        self.dense = False
        self.begun = False  # whether a call came that was not of a dense step
        # by grid, text and device; made before the call where the run tells the layout: compiled code cannot
        self.ready: dict[tuple[Grid, int, torch.device], Laid] = {}
        self.place: tuple[torch.device, torch.dtype] | None = None
        self.begun_with: Laid | None = None  # of the call that has begun
        self.last: Laid | None = None

    def begin_call(self, like: Tensor) -> None:
        """Reads the step and makes the plan, before each call of the denoiser and outside compiled code; in
        dense steps as well, so that what does not fit is refused before the first of them.
        """
        self.dense = self.method.is_dense_step(self.run)
        self.begun |= not self.dense
        layout, self.begun_with = self.run.layout, None
        if layout is None:
            return
        if self.site.kind == "self":
            layout = Layout(layout.grid, slice(0, 0), layout.vision)
        if self.place != (like.device, dtype_of(like)):
            self.ready.clear()
            self.place = like.device, dtype_of(like)
        self.begun_with = self._lay(*self.place, layout)

    def order(self) -> Order | str | None:
        """As `OrderingCore.order`; dense attention takes any."""
        return None if self.dense or self.begun_with is None else self.begun_with.order

    def describe(self) -> dict[str, Any]:
        """What ran last, for the report."""
        laid = self.last or (next(iter(self.ready.values()), None) if self.begun else None)
        if laid is None:
            return {"why": "dense steps so far" if self.dense else "not called yet"}
        names = "backend", "why", "density", "full_share"
        # The call's order is chosen for the grid that it began with; coarser ones of a U-Net have none.
        hoisting = self.run.order if laid is self.begun_with else None
        order = "tokens lie in order" if laid.lies else hoisting or "tokens put in order in every layer"
        return {name: getattr(laid, name) for name in names} | {"order": order if laid.plan else ""}

    def idle(self) -> str | None:
        """As `ReportingCore.idle`; what `auto` decides is in the log."""
        if self.dense:  # dense steps come first, so all of the run's were
            return (
                f"dense_steps={self.method.dense_steps} keeps all of its {self.run.steps} steps dense; lower "
                "it, or run more steps"
            )
        laid = self.last or self.begun_with
        return laid.why if laid is not None and laid.plan is None and not laid.logged else None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        laid = self._laid(q, k, mask, layout)  # also where it is not used yet: it checks
        if self.dense:
            return self.inner(q, k, v, mask, layout)
        if not torch.compiler.is_compiling():
            self.last = laid
        if laid.plan is None:
            return self.inner(q, k, v, mask, layout)
        if self.run.hoisted:
            laid = replace(laid, lies=True)
        if mask is not None:
            laid = laid.hiding(mask, q.shape[0], layout)
        keys, values = self.in_order(k, laid, layout), self.in_order(v, laid, layout)
        if laid.lies:
            out = self.attend(q[:, layout.vision], keys, values, laid)
        else:
            out = self.attend(q.index_select(1, laid.queries), keys, values, laid)
            out = out.index_select(1, laid.back)
        if not laid.text:
            return out
        text = self.inner(q[:, layout.text], k, v, mask, layout)
        first = layout.text.start < layout.vision.start
        return torch.cat([text, out] if first else [out, text], dim=1)

    def in_order(self, x: Tensor, laid: Laid, layout: Layout) -> Tensor:
        """Keys or values `[B, N, H, D]` of the host in the order of the plan, far ones behind."""
        return laid.in_order(x, layout)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, laid: Laid) -> Tensor:
        """Attention of tokens that lie in the order of the plan."""
        return self.operator(laid)(q, k, v, laid.plan)[0]

    def operator(self, laid: Laid) -> Callable[..., tuple[Tensor, Tensor]]:
        """Attention over a plan, on the back-end that was chosen."""
        if laid.compiled is not None:
            return laid.compiled
        return partial(ops.attention, triton=laid.backend == "triton")

    def _laid(self, q: Tensor, k: Tensor, mask: Tensor | None, layout: Layout | None) -> Laid:
        if layout is None:
            return Laid((0, 0, 0), 0, "the grid of these tokens is not known")
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
        laid = self.ready.get((layout.grid, text, q.device))
        # Compiled code takes what was made for the latents' dtype: it can make nothing.
        if laid is None or (not torch.compiler.is_compiling() and laid.dtype != dtype_of(q)):
            return self._lay(q.device, dtype_of(q), layout)
        return laid

    def _lay(self, device: torch.device, dtype: torch.dtype, layout: Layout) -> Laid:
        if (why := self.method.why_not(self.site, layout)) is not None:
            if not layout.raster:
                raise UnsupportedError(
                    f"{why}; leave them out, or use a method without a grid, such as softpag."
                )
            raise UnsupportedError(f"{why}; choose a size and settings that fit, or another method.")
        span = (layout.text.start, layout.text.stop) if layout.text.start < layout.text.stop else (0, 0)
        key = (self.method, layout.grid, span, layout.masked_text, self.site.head_dim, device, dtype)
        if key not in self.run.plans:
            self.run.plans[key] = lay_out(self.method, layout, self.site.head_dim, device, dtype)
        laid = self.run.plans[key]
        self.ready[laid.grid, laid.text, device] = laid
        return laid
