"""The core of sparse methods: puts tokens in the order of a plan, runs the plan, puts them back.

Text queries always run through the attention below, as do whole calls in dense steps, where the rule hides
nothing, and where a plan promises no gain.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Core, Layout, RunContext, Site
from ..errors import UnsupportedError
from ..kernels import geometry
from ..kernels.block_sparse import ops
from ..kernels.capabilities import Problem, choose
from ..kernels.geometry import Grid
from ..kernels.plan import BlockPlan

if TYPE_CHECKING:
    from .sparse import SparseMethod

log = logging.getLogger("diffusers_ext")


@dataclass(frozen=True, eq=False)
class Laid:
    """A plan and the places of its tokens in the host's sequence; without a plan attention stays dense."""

    grid: Grid
    text: int
    why: str
    density: float = 1.0
    full_share: float = 1.0
    backend: str = "dense"
    plan: BlockPlan | None = None
    compiled: Callable[..., tuple[Tensor, None]] | None = None  # where a back-end compiles the plan in
    queries: Tensor | None = None
    keys: Tensor | None = None
    back: Tensor | None = None  # row of the result of every grid token

    def hiding(self, mask: Tensor, batch: int) -> "Laid":
        """The plan without the keys that `mask [B or 1, 1, 1, N]`, bool, hides in each row of the batch."""
        seen = mask[:, 0, 0].index_select(1, self.keys)
        seen = F.pad(seen, (0, self.plan.s_kv - seen.shape[1]), value=True)  # far keys are of the grid
        return replace(self, plan=self.plan.hiding(seen.expand(batch, -1)))


class SparseCore:
    """Attention of one site over the blocks of a plan."""

    def __init__(self, method: "SparseMethod", site: Site, run: RunContext, inner: Core) -> None:
        self.method = method
        self.site = site
        self.run = run
        self.inner = inner
        self.dense = False
        self.begun = False  # whether a call came that was not of a dense step
        # by grid and text; made before the call where the run tells the layout: compiled code cannot
        self.ready: dict[tuple[Grid, int], Laid] = {}
        self.place: tuple[torch.device, torch.dtype] | None = None
        self.last: Laid | None = None

    def begin_call(self, like: Tensor) -> None:
        """Reads the step and makes the plan, before each call of the denoiser and outside compiled code; in
        dense steps as well, so that what does not fit is refused before the first of them.
        """
        self.dense = self.method.is_dense_step(self.run)
        self.begun |= not self.dense
        layout = self.run.layout
        if layout is None:
            return
        if self.site.kind == "self":
            layout = Layout(layout.grid, slice(0, 0), layout.vision)
        if self.place != (like.device, like.dtype):
            self.ready.clear()
            self.place = like.device, like.dtype
        self._lay(like.device, like.dtype, layout)

    def describe(self) -> dict[str, Any]:
        """What ran last, for the report."""
        laid = self.last or (next(iter(self.ready.values()), None) if self.begun else None)
        if laid is None:
            return {"why": "dense steps so far" if self.dense else "not called yet"}
        names = "backend", "why", "density", "full_share"
        return {name: getattr(laid, name) for name in names}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        laid = self._laid(q, k, mask, layout)  # also where it is not used yet: it checks
        if self.dense:
            return self.inner(q, k, v, mask, layout)
        if not torch.compiler.is_compiling():
            self.last = laid
        if laid.plan is None:
            return self.inner(q, k, v, mask, layout)
        if mask is not None:
            laid = laid.hiding(mask, q.shape[0])
        keys, values = self.in_order(k, laid, layout), self.in_order(v, laid, layout)
        out = self.attend(q.index_select(1, laid.queries), keys, values, laid).index_select(1, laid.back)
        if not laid.text:
            return out
        text = self.inner(q[:, layout.text], k, v, mask, layout)
        first = layout.text.start < layout.vision.start
        return torch.cat([text, out] if first else [out, text], dim=1)

    def in_order(self, x: Tensor, laid: Laid, layout: Layout) -> Tensor:
        """Keys or values `[B, N, H, D]` of the host in the order of the plan, far ones behind."""
        return x.index_select(1, laid.keys)

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
        laid = self.ready.get((layout.grid, text))
        return self._lay(q.device, q.dtype, layout) if laid is None else laid

    def _lay(self, device: torch.device, dtype: torch.dtype, layout: Layout) -> Laid:
        if (why := self.method.why_not(self.site, layout)) is not None:
            raise UnsupportedError(f"{why}; close the session and choose another method or other modules.")
        span = (layout.text.start, layout.text.stop) if layout.text.start < layout.text.stop else (0, 0)
        key = (self.method, layout.grid, span, layout.masked_text, self.site.head_dim, device, dtype)
        if key not in self.run.plans:
            self.run.plans[key] = _lay_out(self.method, layout, self.site.head_dim, device, dtype)
        laid = self.run.plans[key]
        self.ready[laid.grid, laid.text] = laid
        return laid


def _compile(plan: BlockPlan) -> Callable[..., tuple[Tensor, None]]:
    from ..kernels.block_sparse.flex import prepare  # brings dynamo, which nothing else here needs

    return prepare(plan)


def _lay_out(
    method: "SparseMethod", layout: Layout, head_dim: int, device: torch.device, dtype: torch.dtype
) -> Laid:
    text = layout.text.stop - layout.text.start
    recipe = method.recipe(layout.grid, text, text_rows=False)
    if layout.masked_text:
        recipe = replace(recipe, masked_text=True)
    tokens = layout.tokens
    if not recipe.far and recipe.pairs == tokens * (tokens + text):
        return Laid(layout.grid, text, f"{method.name} hides nothing on this grid")
    survey = recipe.survey()
    try:
        choice = choose(Problem(device, dtype, head_dim, (recipe.block_q, recipe.block_k)), method.backend)
    except ValueError as error:
        raise UnsupportedError(f"{method.name}: {error}") from error
    if method.backend == "auto" and (why := method.expect(survey, choice.name)) is not None:
        log.warning("%s stays dense on a grid of %s: %s.", method.name, "x".join(map(str, layout.grid)), why)
        return Laid(layout.grid, text, why)
    if choice.name == "flex" and layout.masked_text:
        raise UnsupportedError(
            f"{method.name}: the FlexAttention back-end compiles a plan in, and cannot hide the padding of "
            "each prompt; use auto, triton or reference."
        )
    start = layout.vision.start
    places = torch.arange(layout.text.start, layout.text.stop)
    plan = recipe.build(device)
    _ = plan.order  # made here, as compiled code cannot
    return Laid(
        grid=layout.grid,
        text=text,
        why=choice.why,
        density=recipe.pairs / (tokens * (tokens + text)),
        full_share=survey.full_share,
        backend=choice.name,
        plan=plan,
        compiled=_compile(plan) if choice.name == "flex" else None,
        # Padding repeats a token; the plan hides it.
        queries=(recipe.q_order.clamp(min=0) + start).to(device),
        keys=torch.cat([recipe.k_order.clamp(min=0) + start, places]).to(device),
        back=geometry.inverse(recipe.q_order).to(device),
    )
