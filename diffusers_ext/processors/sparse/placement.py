"""Place a plan in the sequence of the pipeline: where each token is, or why there is no plan."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import Layout, Order
from ...kernels import geometry
from ...kernels.block_sparse.capabilities import Choice
from ...kernels.geometry import Grid
from ...kernels.plan.plan import BlockPlan, PlanSpec


@dataclass(frozen=True, eq=False)
class PlacedPlan:
    """A block plan with the position of each of its tokens in the pipeline's sequence.

    Without a plan attention stays dense. `in_plan_order`: grid tokens are in plan order already, so queries
    need no gather. `keys_contiguous`: so are all keys, text included.
    """

    grid: Grid
    text: int
    why: str
    density: float = 1.0
    full_share: float = 1.0
    backend: str = "dense"
    plan: BlockPlan | None = None
    compiled: Callable[..., tuple[Tensor, Tensor | None]] | None = None  # with the plan inside
    queries: Tensor | None = None
    keys: Tensor | None = None
    inverse: Tensor | None = None  # row of the result of every grid token
    order: Order | str | None = None  # for an entire call, or why there is none, after the name of a method
    in_plan_order: bool = False
    keys_contiguous: bool = False
    dtype: torch.dtype | None = None  # dtype that the back-end was chosen for
    logged: bool = False  # the log has `why` there is no plan

    @property
    def pairs(self) -> int:
        """The pairs of a query of the grid and a key that dense attention has."""
        tokens = math.prod(self.grid)
        return tokens * (tokens + self.text)

    def in_order(self, x: Tensor, layout: Layout) -> Tensor:
        """Bring keys or values `[B, N, ...]` of the pipeline into plan order."""
        if not self.in_plan_order:
            return x.index_select(1, self.keys)
        return x if self.keys_contiguous else torch.cat([x[:, layout.vision], x[:, layout.text]], dim=1)

    def hiding(self, mask: Tensor, batch: int, layout: Layout) -> "PlacedPlan":
        """Hide the keys that `mask [B or 1, 1, 1, N]`, bool, hides in each row of the batch."""
        seen = self.in_order(mask[:, 0, 0], layout)
        seen = F.pad(seen, (0, self.plan.s_kv - seen.shape[1]), value=True)  # extra keys belong to the grid
        return replace(self, plan=self.plan.hiding(seen.expand(batch, -1)))


def place(spec: PlanSpec, choice: Choice, layout: Layout, device: torch.device) -> PlacedPlan:
    """Build a plan for queries of the grid, and find the position of its tokens in a sequence.

    Raises `ValueError` for grids that plans cannot address.
    """
    text_leads = layout.text.start < layout.vision.start
    spec = spec.leading() if text_leads else spec
    plan = spec.build(device)
    _ = plan.order  # made here, as compiled code cannot
    start, order = layout.vision.start, spec.q_order
    # Padding repeats a token; the plan hides it.
    grid, words = spec.k_order.clamp(min=0) + start, torch.arange(layout.text.start, layout.text.stop)
    inverse = geometry.inverse(order).to(device)
    raster = spec.in_raster
    return PlacedPlan(
        grid=layout.grid,
        text=spec.text,
        why=choice.why,
        density=spec.pairs / (layout.tokens * (layout.tokens + spec.text)),
        full_share=spec.stats.full_share,
        backend=choice.name,
        plan=plan,
        compiled=_compile(plan, choice.spare) if choice.name == "flex" else None,
        queries=(order.clamp(min=0) + start).to(device),
        keys=torch.cat([words, grid] if spec.text_first else [grid, words]).to(device),
        inverse=inverse,
        order=_no_order(spec, raster) or Order(order.to(device), inverse),
        in_plan_order=raster,
        keys_contiguous=not spec.text or spec.text_first == text_leads,
    )


def _no_order(spec: PlanSpec, raster: bool) -> str | None:
    """Return why an entire call cannot run in plan order, or `None`; the name of a method comes before it."""
    if raster:
        return "takes the tokens as they are"
    if spec.extra_keys:
        return "pools tokens by their places in the picture"
    if bool((spec.q_order < 0).any()) or not torch.equal(spec.q_order, spec.k_order):
        return "fills up blocks that the grid cuts off"
    return None


def _compile(plan: BlockPlan, spare: bool) -> Callable[..., tuple[Tensor, Tensor | None]]:
    from ...kernels.block_sparse import flex  # brings dynamo, which nothing else here needs

    return flex.OrReference(plan) if spare else flex.prepare(plan)
