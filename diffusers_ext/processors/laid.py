"""A plan laid out for a sequence of the host: which token is at which place, or why there is no plan."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Layout, Order
from ..errors import UnsupportedError
from ..kernels import geometry
from ..kernels.candidates import Candidates
from ..kernels.capabilities import Problem, choose
from ..kernels.geometry import Grid
from ..kernels.plan import BlockPlan
from ..kernels.recipe import Recipe

if TYPE_CHECKING:
    from .sparse import SparseMethod

log = logging.getLogger("diffusers_ext")


@dataclass(frozen=True, eq=False)
class Laid:
    """A plan and the places of its tokens in the host's sequence; without a plan attention stays dense.

    With `lies`, grid tokens lie as the plan has them, and `whole` says that so do all keys together.
    """

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
    order: Order | str | None = None  # as `OrderingCore.order`
    lies: bool = False
    whole: bool = False
    dtype: torch.dtype | None = None  # for which the back-end was chosen
    logged: bool = False  # `why` there is no plan is in the log

    def in_order(self, x: Tensor, layout: Layout) -> Tensor:
        """Keys or values `[B, N, ...]` of the host in the order of the plan."""
        if not self.lies:
            return x.index_select(1, self.keys)
        return x if self.whole else torch.cat([x[:, layout.vision], x[:, layout.text]], dim=1)

    def hiding(self, mask: Tensor, batch: int, layout: Layout) -> "Laid":
        """The plan without the keys that `mask [B or 1, 1, 1, N]`, bool, hides in each row of the batch."""
        seen = self.in_order(mask[:, 0, 0], layout)
        seen = F.pad(seen, (0, self.plan.s_kv - seen.shape[1]), value=True)  # far keys are of the grid
        return replace(self, plan=self.plan.hiding(seen.expand(batch, -1)))


def lay_out(
    method: "SparseMethod", layout: Layout, head_dim: int, device: torch.device, dtype: torch.dtype
) -> Laid:
    text = layout.text.stop - layout.text.start
    recipe = method.recipe(layout.grid, text, text_rows=False)
    try:
        choice = choose(Problem(device, dtype, head_dim, (recipe.block_q, recipe.block_k)), method.backend)
    except ValueError as error:
        raise UnsupportedError(f"{method.name}: {error}") from error
    if choice.name == "flex" and layout.masked_text:
        raise UnsupportedError(
            f"{method.name}: the FlexAttention back-end compiles a plan in, and cannot hide the padding of "
            "each prompt; use auto, triton or reference."
        )
    tokens = layout.tokens
    if not recipe.far and recipe.pairs == tokens * (tokens + text):
        return Laid(layout.grid, text, f"{method.name} hides nothing on this grid", dtype=dtype)
    if layout.masked_text:
        recipe = replace(recipe, masked_text=True)
    survey = recipe.survey()
    if method.backend == "auto" and (why := method.expect(survey, choice.name)) is not None:
        log.warning("%s stays dense on a grid of %s: %s.", method.name, "x".join(map(str, layout.grid)), why)
        return Laid(layout.grid, text, why, dtype=dtype, logged=True)
    front = layout.text.start < layout.vision.start
    if front and (leading := recipe.leading()) is not recipe:
        recipe, survey = leading, leading.survey()
    try:
        plan = recipe.build(device)
    except ValueError as error:  # a grid that plans cannot address
        raise UnsupportedError(f"{method.name}: {error}") from error
    _ = plan.order  # made here, as compiled code cannot
    start, order = layout.vision.start, recipe.q_order
    # Padding repeats a token; the plan hides it.
    grid, words = recipe.k_order.clamp(min=0) + start, torch.arange(layout.text.start, layout.text.stop)
    back = geometry.inverse(order).to(device)
    raster = torch.equal(order, geometry.raster(layout.grid)) and torch.equal(order, recipe.k_order)
    return Laid(
        grid=layout.grid,
        text=text,
        why=choice.why,
        density=recipe.pairs / (tokens * (tokens + text)),
        full_share=survey.full_share,
        backend=choice.name,
        plan=plan,
        compiled=_compile(plan) if choice.name == "flex" else None,
        queries=(order.clamp(min=0) + start).to(device),
        keys=torch.cat([words, grid] if recipe.text_first else [grid, words]).to(device),
        back=back,
        order=_no_order(method.name, recipe, raster) or Order(order.to(device), back),
        lies=raster,
        whole=not text or recipe.text_first == front,
        dtype=dtype,
    )


def _no_order(method: str, recipe: Recipe | Candidates, raster: bool) -> str | None:
    """Why the tokens of a whole call cannot lie in the order of a plan, or `None`."""
    if raster:
        return f"{method} takes the tokens as they are"
    if recipe.far:
        return f"{method} pools far tokens out of the rows of the picture"
    if bool((recipe.q_order < 0).any()) or not torch.equal(recipe.q_order, recipe.k_order):
        return f"{method} fills up blocks that the grid cuts off"
    return None


def _compile(plan: BlockPlan) -> Callable[..., tuple[Tensor, None]]:
    from ..kernels.block_sparse.flex import prepare  # brings dynamo, which nothing else here needs

    return prepare(plan)
