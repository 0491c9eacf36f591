"""Find the keys that one query sees under a sparse method, without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import MethodError
from ..kernels.geometry import Grid, check_grid, coded, inverse, raster
from ..kernels.masks.visible import visible
from ..kernels.plan.dynamic import DynamicPlanSpec
from ..kernels.plan.plan import PlanSpec
from ..kernels.plan.spec import RulePlanSpec
from ..processors.sparse.method import SparseMethod


@dataclass(frozen=True, eq=False)
class OneQuery:
    """The keys of a grid `(t, h, w)` that the token `query` sees, each a bool tensor `[t, h, w]`.

    `seen` are those that attention uses. `visited` are those of all blocks that a kernel reads for it; where
    they are not seen, they are masked. Text tokens are always seen. `by_data` is the number of blocks that
    are chosen in each call besides, at least, and 0 for a rule that does not look at data.
    """

    query: Grid
    seen: Tensor
    visited: Tensor
    by_data: int = 0


def spec_of(method: SparseMethod, grid: Grid, text: int = 0) -> PlanSpec:
    """Return the plan of the grid queries of a method.

    Raises `MethodError` for settings that do not fit, `ValueError` for grids that no plan addresses.
    """
    check_grid(grid)
    if (why := method.refuses(grid)) is not None:
        raise MethodError(f"{why}.")
    return method.plan_spec(grid, text, False)


def one_query(
    spec: PlanSpec, query: Grid, bitmap: Callable[[RulePlanSpec], Tensor] = RulePlanSpec.bitmap
) -> OneQuery:
    """Return what the token `query`, `(t, h, w)` from 0, sees by a plan of `spec_of`.

    `bitmap` gives the visited blocks of a rule's plan; a caller may keep them. Raises `MethodError` for a
    token outside the grid.
    """
    grid = spec.grid
    if len(query) != 3 or any(not 0 <= at < n for at, n in zip(query, grid, strict=True)):
        raise MethodError(
            f"a token of this grid is (frame, row, column) from 0 to {tuple(n - 1 for n in grid)}, got "
            f"{tuple(query)}; choose one inside."
        )
    number = (query[0] * grid[1] + query[1]) * grid[2] + query[2]
    row = int(inverse(spec.q_order)[number]) // spec.block_q
    block_of = inverse(spec.k_order) // spec.block_k  # of each token
    if isinstance(spec, DynamicPlanSpec):
        kept = spec.always[row]
        visited = kept[block_of].view(grid)
        least = spec.least - (spec.text > 0)  # the text may take a column
        return OneQuery(query, visited, visited, max(least - int(kept.sum()), 0))
    visited = bitmap(spec)[row][block_of].view(grid)
    if spec.snap:
        return OneQuery(query, visited, visited)
    rule = spec.rule
    coords = coded(raster(grid), grid)
    seen = visible(rule.kind, rule.params, rule.table(), coords[number], coords).view(grid)
    return OneQuery(query, seen, visited)
