"""What sparse methods share: when they step aside, how tokens are put in the order of a plan, what they
report.

Text queries always run through the attention below, as do whole calls in dense steps, where the rule hides
nothing, and where a plan promises no gain.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core import Core, Layout, RunContext, Site, Slot
from ..errors import MethodError, UnsupportedError
from ..kernels import geometry
from ..kernels.block_sparse import ops, reference
from ..kernels.capabilities import BACKENDS, Problem, choose, interpreted
from ..kernels.masks import Rule
from ..kernels.plan import BlockPlan, Recipe, Survey

Grid = tuple[int, int, int]

DENSE_ABOVE = 0.6  # share of visited blocks from which a kernel at 0.65 of the dense speed can only lose
TILE_IMAGE: Grid = (1, 8, 16)
TILE_VIDEO: Grid = (2, 8, 8)

log = logging.getLogger("diffusers_ext")


def first_steps(default: int | float) -> Any:
    """The field `dense_steps`, with the default of a method."""
    facts = {
        "unit": "steps, or a fraction of them",
        "low": 0,
        "help": "first steps with dense attention: a whole number counts steps, 0.24 is a share of them",
    }
    return field(default=default, kw_only=True, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class SparseMethod:
    """Settings and selection that every sparse method has; subclasses give `recipe` and `refuses`."""

    name: ClassVar[str]
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.CORE})

    dense_steps: int | float = first_steps(0)
    dense_layers: int = field(
        default=0,
        metadata={"unit": "layers", "low": 0, "help": "first layers that keep dense attention"},
    )
    backend: Literal["auto", "triton", "reference"] = field(
        default="auto",
        metadata={
            "unit": "back-end",
            "help": "auto leaves attention dense where no gain is to be expected; the others never do",
        },
    )

    def __post_init__(self) -> None:
        share = isinstance(self.dense_steps, float)
        if self.dense_steps < 0 or (share and not self.dense_steps <= 1.0):
            raise MethodError(
                f"{self.name} dense_steps is a whole number of steps or a fraction from 0.0 to 1.0, got "
                f"{self.dense_steps}; write 12 for twelve steps, 0.24 for 24 %."
            )
        if self.dense_layers < 0:
            raise MethodError(
                f"{self.name} dense_layers must be 0 or more, got {self.dense_layers}; 0 makes every layer "
                "sparse."
            )
        if self.backend not in ("auto", *BACKENDS):
            raise MethodError(
                f"{self.name} backend must be auto, {' or '.join(BACKENDS)}, got {self.backend!r}."
            )

    def recipe(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> Recipe:
        """The plan of a grid; raises `MethodError` where the settings do not fit it. `tile` holds those of
        queries and keys.
        """
        raise NotImplementedError

    def refuses(self, grid: Grid) -> str | None:
        """`None`, or why the method makes no sense on a grid."""
        return None

    def nearest(self, grid: Grid, tile: tuple[Grid, Grid]) -> dict[str, Grid]:
        """The closest sizes and settings without padding and without checks inside blocks."""
        return {"grid": tuple(_multiple(n, math.lcm(a, b)) for n, a, b in zip(grid, *tile, strict=True))}

    def expect(self, survey: Survey) -> str | None:
        """`None` where a plan promises a gain, else why `backend="auto"` leaves attention dense."""
        if survey.block_density <= DENSE_ABOVE:
            return None
        return f"no gain expected, {survey.block_density:.2f} of the blocks would be visited"

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Self- and joint attention of all but the first `dense_layers` layers of each denoiser."""
        usable = [s for s in sites if s.kind != "cross"]
        picked = []
        for component in dict.fromkeys(s.component for s in usable):
            mine = [s for s in usable if s.component == component]
            layers = list(dict.fromkeys(_layer(s) for s in mine))
            picked += [s for s in mine if layers.index(_layer(s)) >= self.dense_layers]
            if self.dense_layers >= len(layers):
                raise MethodError(
                    f"{self.name} dense_layers must be below the number of layers, got "
                    f"{self.dense_layers} of {len(layers)}, which leaves nothing to do; use at most "
                    f"{len(layers) - 1}."
                )
        return picked

    def why_not(self, site: Site, layout: Layout | None) -> str | None:
        """Cross-attention has no grid of keys."""
        if site.kind == "cross":
            return (
                f"{self.name} needs queries and keys on one grid, which {site.path} (cross-attention) lacks"
            )
        if layout is None:
            return None
        if site.kind == "joint" and layout.grid[1] == 1 < layout.grid[2]:
            return (
                f"{self.name} needs the grid of the tokens, but {site.path} got a sequence of "
                f"{layout.grid[2]} that is no single grid (reference images do that)"
            )
        return self.refuses(layout.grid)

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return SparseCore(self, site, run, inner)

    def is_dense_step(self, run: RunContext) -> bool:
        """Whether the current step comes before the sparse ones."""
        if not self.dense_steps:
            return False
        if run.step is None or run.steps is None:
            raise UnsupportedError(
                f"{self.name} dense_steps counts the steps of a pipeline, but it was applied to a bare "
                "denoiser; apply it to the pipeline, or set dense_steps=0."
            )
        if isinstance(self.dense_steps, float):
            return run.step < math.ceil(self.dense_steps * run.steps - 1e-9)
        return run.step < self.dense_steps


@dataclass(frozen=True, eq=False)
class _Laid:
    """A plan and the places of its tokens in the host's sequence; without a plan attention stays dense."""

    grid: Grid
    text: int
    why: str
    density: float = 1.0
    full_share: float = 1.0
    backend: str = "dense"
    plan: BlockPlan | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None
    back: Tensor | None = None  # row of the result of every grid token


class SparseCore:
    """Attention of one site over the blocks of a plan."""

    def __init__(self, method: SparseMethod, site: Site, run: RunContext, inner: Core) -> None:
        self.method = method
        self.site = site
        self.run = run
        self.inner = inner
        self.dense = False
        # by grid and text; made before the call where the run tells the layout: compiled code cannot
        self.ready: dict[tuple[Grid, int], _Laid] = {}
        self.place: tuple[torch.device, torch.dtype] | None = None
        self.last: _Laid | None = None

    def begin_call(self, like: Tensor) -> None:
        """Reads the step and makes the plan, before each call of the denoiser and outside compiled code."""
        self.dense = self.method.is_dense_step(self.run)
        layout = self.run.layout
        if self.dense or layout is None:
            return
        if self.site.kind == "self":
            layout = Layout(layout.grid, slice(0, 0), layout.vision)
        if self.place != (like.device, like.dtype):
            self.ready.clear()
            self.place = like.device, like.dtype
        self._lay(like.device, like.dtype, layout)

    def describe(self) -> dict[str, Any]:
        """What ran last, for the report."""
        laid = self.last or next(iter(self.ready.values()), None)
        if laid is None:
            return {"why": "dense steps so far" if self.dense else "not called yet"}
        names = "backend", "why", "density", "full_share"
        return {name: getattr(laid, name) for name in names}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        if self.dense:
            return self.inner(q, k, v, mask, layout)
        laid = self._laid(q, k, mask, layout)
        if not torch.compiler.is_compiling():
            self.last = laid
        if laid.plan is None:
            return self.inner(q, k, v, mask, layout)
        run = ops.attention
        if laid.backend == "reference" and (q.is_cuda or interpreted()):
            run = reference.attention  # the operator would take Triton
        keys, values = k.index_select(1, laid.keys), v.index_select(1, laid.keys)
        out = run(q.index_select(1, laid.queries), keys, values, laid.plan)[0].index_select(1, laid.back)
        if not laid.text:
            return out
        text = self.inner(q[:, layout.text], k, v, None, layout)
        first = layout.text.start < layout.vision.start
        return torch.cat([text, out] if first else [out, text], dim=1)

    def _laid(self, q: Tensor, k: Tensor, mask: Tensor | None, layout: Layout | None) -> _Laid:
        if layout is None:
            return _Laid((0, 0, 0), 0, "the grid of these tokens is not known")
        text = layout.text.stop - layout.text.start
        if mask is not None:
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

    def _lay(self, device: torch.device, dtype: torch.dtype, layout: Layout) -> _Laid:
        if (why := self.method.why_not(self.site, layout)) is not None:
            raise UnsupportedError(f"{why}; close the session and choose another method or other modules.")
        span = (layout.text.start, layout.text.stop) if layout.text.start < layout.text.stop else (0, 0)
        key = (self.method, layout.grid, span, self.site.head_dim, device, dtype)
        if key not in self.run.plans:
            self.run.plans[key] = _lay_out(self.method, layout, self.site.head_dim, device, dtype)
        laid = self.run.plans[key]
        self.ready[laid.grid, laid.text] = laid
        return laid


def tiled(
    rule: Rule,
    grid: Grid,
    text: int,
    text_rows: bool,
    tile: tuple[Grid, Grid] | None,
) -> Recipe:
    """Tile-major order; unless tiles are given, short ones are filled up only where that visits less."""
    q_tile, k_tile = tile or default_tiles(grid)
    recipes = [
        Recipe(rule, grid, text, math.prod(q_tile), math.prod(k_tile), q_tile, k_tile, filled, text_rows)
        for filled in (True, False)
    ]
    whole = all(n % edge == 0 for edges in (q_tile, k_tile) for n, edge in zip(grid, edges, strict=True))
    if whole or tile is not None:
        return recipes[0]
    return min(recipes, key=lambda r: r.survey().work)


def default_tiles(grid: Grid) -> tuple[Grid, Grid]:
    """Tiles of queries and keys, 128 tokens each."""
    tile = TILE_IMAGE if grid[0] == 1 else TILE_VIDEO
    return tile, tile


def _lay_out(
    method: SparseMethod, layout: Layout, head_dim: int, device: torch.device, dtype: torch.dtype
) -> _Laid:
    text = layout.text.stop - layout.text.start
    recipe = method.recipe(layout.grid, text, text_rows=False)
    tokens = layout.tokens
    if recipe.pairs == tokens * (tokens + text):
        return _Laid(layout.grid, text, f"{method.name} hides nothing on this grid")
    survey = recipe.survey()
    if method.backend == "auto" and (why := method.expect(survey)) is not None:
        log.info("%s stays dense on a grid of %s: %s.", method.name, "x".join(map(str, layout.grid)), why)
        return _Laid(layout.grid, text, why)
    try:
        choice = choose(Problem(device, dtype, head_dim, (recipe.block_q, recipe.block_k)), method.backend)
    except ValueError as error:
        raise UnsupportedError(f"{method.name}: {error}") from error
    start = layout.vision.start
    places = torch.arange(layout.text.start, layout.text.stop)
    plan = recipe.build(device)
    _ = plan.order  # made here, as compiled code cannot
    return _Laid(
        grid=layout.grid,
        text=text,
        why=choice.why,
        density=recipe.pairs / (tokens * (tokens + text)),
        full_share=survey.full_share,
        backend=choice.name,
        plan=plan,
        # Padding repeats a token; the plan hides it.
        queries=(recipe.q_order.clamp(min=0) + start).to(device),
        keys=torch.cat([recipe.k_order.clamp(min=0) + start, places]).to(device),
        back=geometry.inverse(recipe.q_order).to(device),
    )


def _layer(site: Site) -> str:
    return site.name.rpartition(".")[0]


def _multiple(size: int, step: int) -> int:
    return max(step, round(size / step) * step)
