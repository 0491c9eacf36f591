"""Settings that all sparse methods share, the layers they act on, their dense steps, and their tiles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from ...core import Layout, Method, RunContext, Site, Slot
from ...errors import MethodError, UnsupportedError
from ...kernels.block_sparse.capabilities import BACKENDS
from ...kernels.block_sparse.gains import USUAL, backend_on, no_gain, share_of_dense
from ...kernels.geometry import Grid, check_grid
from ...kernels.masks.rule import Rule
from ...kernels.plan.plan import PlanSpec
from ...kernels.plan.spec import RulePlanSpec
from ...settings.fields import fit_fields, setting
from .nearest import aligned_grid, aligned_text

TILE_IMAGE: Grid = (1, 8, 16)
TILE_VIDEO: Grid = (2, 8, 8)
STANDING: Grid = (1, 16, 8)
PADDED = 1.125  # places over tokens
LONG = 1 << 19  # blocks in the lists of a plan


def first_steps(default: int | float) -> Any:
    """Make the field `dense_steps` with the default of a method."""
    help = (
        "first steps with dense attention: a whole number counts steps, 0.24 is a share of them, which below "
        "1.0 leaves a step sparse"
    )
    return setting(default, "steps, or a fraction of them", help, bounds=(0, None), kw_only=True)


def tokens_or_tiles() -> Any:
    """Make the field `reduce` of methods that order tokens tile by tile."""
    help = "check tokens inside tiles, or keep whole tiles, nine tenths of what is seen"
    return setting("token", "rule", help, kw_only=True)


@dataclass(frozen=True, kw_only=True)
class SparseMethod(Method):
    """Settings and selection that every sparse method has.

    Subclasses define `plan_spec`, `refuses` and `bind`, which returns a `SparseCore`.
    """

    name: ClassVar[str]
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.CORE})
    order_free: ClassVar[bool] = True  # cores ask for the order that they need

    dense_steps: int | float = first_steps(0)
    dense_layers: int = setting(0, "layers", "first layers that keep dense attention", bounds=(0, None))
    backend: Literal["auto", "triton", "reference", "flex"] = setting(
        "auto", "back-end", "auto leaves attention dense where no gain is to be expected; the others never do"
    )

    def __post_init__(self) -> None:
        fit_fields(self)
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

    def plan_spec(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> PlanSpec:
        """Specify the plan of a grid; raises `MethodError` if the settings do not fit it.

        `tile` holds the tiles of queries and of keys.
        """
        raise NotImplementedError

    def check(self, grid: Grid) -> None:
        """Raise `MethodError` if the settings do not fit a grid."""

    def refuses(self, grid: Grid) -> str | None:
        """Return why the method makes no sense on a grid, or `None`."""
        return None

    def fitting(self, grid: Grid) -> list[Grid]:
        """Find the closest grids that the method takes, if it refuses this one for its size."""
        return []

    def nearest(self, grid: Grid, tile: tuple[Grid, Grid], text: int = 0) -> dict[str, Any]:
        """Find the closest `grid` without padding, the closest `text` if there is any, and settings for them.

        The result is empty if nothing is close.
        """
        return {"grid": aligned_grid(grid, tile)} | aligned_text(text, tile)

    def expect(self, spec: PlanSpec, backend: str, device: str) -> str | None:
        """Return why `auto` leaves attention dense, or `None` if a plan promises a gain.

        That depends on the back-end and on the class of the device (`gains.device_class`).
        """
        return no_gain(spec, backend, device)

    def remark(self, spec: PlanSpec, device: str) -> str:
        """Return what a forecast for a class of devices adds to its numbers."""
        if (why := self.expect(spec, self.backend_on(device), device)) and self.backend == "auto":
            return why
        try:
            check_grid(spec.grid)
        except ValueError as error:
            return f"no session takes this grid: {str(error).rstrip('.')}"
        if self.backend != "auto":
            return why or ""
        last = self.expect(spec, BACKENDS[-1], "cpu")
        return f"auto stays dense where {BACKENDS[0]} cannot run: {last}" if last else ""

    def backend_on(self, device: str) -> str:
        """Return the back-end that would run on a class of devices, if everything for it is installed."""
        return backend_on(device) if self.backend == "auto" else self.backend

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select self- and joint attention of all but the first `dense_layers` layers of each denoiser."""
        usable = [s for s in sites if s.kind != "cross"]
        picked = []
        for component in dict.fromkeys(s.component for s in usable):
            mine = [s for s in usable if s.component == component]
            layers = list(dict.fromkeys(_layer(s) for s in mine))
            picked += [s for s in mine if layers.index(_layer(s)) >= self.dense_layers]
            if self.dense_layers >= len(layers):
                raise MethodError(
                    f"{self.name} dense_layers must be below the number of layers, got {self.dense_layers} "
                    f"of {len(layers)}, which leaves nothing to do; use at most {len(layers) - 1}."
                )
        return picked

    def why_not(self, site: Site, layout: Layout | None) -> str | None:
        """Return why a site is unusable; cross-attention, for instance, has no grid of keys."""
        if site.kind == "cross":
            return (
                f"{self.name} needs queries and keys on one grid, which {site.path} (cross-attention) lacks"
            )
        if layout is None:
            return None
        if not layout.raster:
            return (
                f"{self.name} needs the grid of the tokens, but {site.path} got a sequence of "
                f"{layout.grid[2]} that is no single grid, as reference images make it"
            )
        return self.refuses(layout.grid)

    def is_dense_step(self, run: RunContext) -> bool:
        """Return whether the current step comes before the sparse ones."""
        if not self.dense_steps:
            return False
        if run.step is None or run.steps is None:
            raise UnsupportedError(
                f"{self.name} dense_steps counts the steps of a pipeline, but it was applied to a bare "
                "denoiser; apply it to the pipeline, or set dense_steps=0."
            )
        return run.step < self.first_dense(run.steps)

    def first_dense(self, steps: int) -> int:
        """Count how many of `steps` are dense.

        A share is rounded up, but below 1.0 never to all of them, so that the method runs in a single step.
        """
        if not isinstance(self.dense_steps, float):
            return min(self.dense_steps, steps)
        count = math.ceil(self.dense_steps * steps - 1e-9)
        return count if self.dense_steps == 1.0 else min(count, steps - 1)


def tiled(
    rule: Rule,
    grid: Grid,
    text: int,
    text_rows: bool,
    tile: tuple[Grid, Grid] | None,
    extra_keys: int = 0,
    snap: bool = False,
) -> RulePlanSpec:
    """Specify a plan whose tokens are ordered tile by tile.

    It is the plan that is expected to take the least time on a GPU. Tiles of images lie or stand, and a block
    of keys is a tile or half of it. Short tiles are filled up, or follow each other closely, which is only
    tried where padding is more than an eighth. Tiles that are given, or kept complete (`snap`), stay as they
    are and are filled up.
    """
    q_tile, k_tile = tile or default_tiles(grid)
    blocks = math.prod(q_tile), math.prod(k_tile)
    spec = RulePlanSpec(
        rule, grid, text, *blocks, q_tile, k_tile, True, text_rows, snap=snap, extra_keys=extra_keys
    )
    if snap or tile is not None:
        return spec
    if len(spec.q_order) > PADDED * spec.grid_tokens:
        spec = fastest(spec, replace(spec, pad=False))
    if grid[0] > 1:
        return refined(spec)
    standing = replace(spec, q_tile=STANDING, k_tile=STANDING)
    return fastest(spec, standing, refined(standing))


def fastest(*specs: RulePlanSpec) -> RulePlanSpec:
    """Return the plan that is expected to take the least time on a GPU, the first of equal ones."""
    return min(specs, key=lambda spec: share_of_dense(spec, BACKENDS[0], USUAL, spec.estimate))


def refined(spec: RulePlanSpec) -> RulePlanSpec:
    """Halve the blocks of keys, if that should be faster and lists stay short; the order of tokens stays.

    Halves of tiles of 16 x 8 and of 2 x 8 x 8 tokens are squares.
    """
    if spec.estimate.visited > LONG:
        return spec
    return fastest(spec, replace(spec, block_k=spec.block_k // 2))


def default_tiles(grid: Grid) -> tuple[Grid, Grid]:
    """Return the tiles of queries and of keys, 128 tokens each."""
    tile = TILE_IMAGE if grid[0] == 1 else TILE_VIDEO
    return tile, tile


def _layer(site: Site) -> str:
    return site.name.rpartition(".")[0]
