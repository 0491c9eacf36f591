"""RectifiedSparse: keep the blocks of keys that matter, as pooled blocks show, and make up for the rest.

Paper: Liu et al., "Rectified SpaAttn: Revisiting Attention Sparsity for Efficient Video Generation" (arXiv
2511.19835). The arithmetic is in `kernels.block_sparse.select`. Blocks are chosen in every call, so only what
is known beforehand is planned and cached (`kernels.plan.dynamic`).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import Core, RunContext, Site
from ..errors import MethodError
from ..kernels.block_sparse.select import BYTES_A_PAIR, select
from ..kernels.geometry import Grid
from ..kernels.plan.dynamic import DynamicPlanSpec
from ..settings.fields import setting
from .sparse.core import SparseCore
from .sparse.method import SparseMethod, first_steps
from .sparse.placement import PlacedPlan


@dataclass(frozen=True)
class RectifiedSparse(SparseMethod):
    """Attention over the blocks with the largest estimated weight, rectified by pooled blocks.

    It takes any grid. A row of `block` queries ranks columns by their estimated weight. Each key block of the
    grid is a column, and all text together is one more. It keeps as many columns as the share `keep` of the
    blocks, and more if those hold less than `p_remaining` of its estimated attention. Either setting may be
    `None`, but not both. The text counts in both, as in the published code. If it ranks among the kept
    columns, a row keeps one block fewer. If it holds `p_remaining` alone, no block is added. Text sees all
    and is seen by all, wherever it ranks.

    Defaults are those published for Wan 2.1 (HunyuanVideo: `keep=0.2, dense_steps=0`; FLUX.1 at 4096 px:
    `keep=0.1, dense_steps=0`). For inference only. Raises `MethodError` for settings out of range.

    There are three departures from the published code. Tokens are ordered tile by tile instead of along a
    space-filling curve. Blocks are as compact, but with `touching` a row keeps more neighbours. On a grid of
    21 x 45 x 80 it keeps 24.9 instead of 17.3 of 591 blocks. A shorter last block counts its own tokens; the
    code counts padding. A share of 1 is dense attention; the code drops a block in favour of the text.
    """

    name: ClassVar[str] = "rectified"
    differentiable: ClassVar[bool] = False

    keep: float | None = setting(
        0.25,
        "share of the key blocks",
        "least share that a row keeps, the text counted as one block; 1 is dense; 0.1 to 0.25 is published",
        bounds=(0.0, 1.0),
    )
    p_remaining: float | None = setting(
        0.3,
        "share of the attention",
        "estimated attention that kept blocks and the text hold at least; 1 is dense; 0.3 is published",
        bounds=(0.0, 1.0),
    )
    touching: bool = setting(
        True,
        "rule",
        "keep the blocks next to a row's own too, diagonals included, as the published code "
        "does; the order of tokens here makes more of them",
    )
    first_frame: bool = setting(
        False,
        "rule",
        "keep the first frame's view of itself; off, as the published code means to keep it for "
        "Wan but keeps other tokens in its order",
    )
    block: int = setting(128, "tokens", "tokens of a block, a power of two", bounds=(16, 256))

    dense_steps: int | float = first_steps(0.1)  # 5 of 50 in the published Wan 2.1 run

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep is None and self.p_remaining is None:
            raise MethodError(
                "RectifiedSparse needs keep, p_remaining or both, got None for both; keep=0.25 is usual."
            )
        for name in ("keep", "p_remaining"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise MethodError(
                    f"RectifiedSparse {name} must lie above 0 and not above 1, got {value}; 1 keeps all, "
                    "None leaves it out."
                )
        if self.backend == "flex":
            raise MethodError(
                "RectifiedSparse chooses blocks in every call, got backend='flex', which compiles them in; "
                "use auto, triton or reference."
            )
        if not 16 <= self.block <= 256 or self.block & (self.block - 1):
            raise MethodError(
                f"RectifiedSparse block must be 16, 32, 64, 128 or 256 tokens, got {self.block}; 128 is "
                "usual."
            )

    def plan_spec(
        self, grid: Grid, text: int = 0, text_rows: bool = True, tile: tuple[Grid, Grid] | None = None
    ) -> DynamicPlanSpec:
        """Specify what is known before the data: the least that is kept."""
        q_tile, k_tile = tile or (self._tile(grid),) * 2
        keep = 1.0 if self.p_remaining == 1 else self.keep or 0.0
        return DynamicPlanSpec(grid, text, q_tile, k_tile, keep, self.touching, self.first_frame, text_rows)

    def expect(self, spec: DynamicPlanSpec, backend: str, device: str) -> str | None:
        """Return why no gain is expected, also if there are fewer than two blocks to choose from."""
        if spec.grid_tokens < 2 * spec.block_k:
            few = f"{spec.grid_tokens} tokens are fewer than two blocks of {spec.block_k}"
            return f"{few}, which leaves no choice"
        return super().expect(spec, backend, device)

    def remark(self, spec: DynamicPlanSpec, device: str) -> str:
        """Add that densities are lower bounds, and that every call pays for the choice."""
        least = (
            "the least that runs, as the data may add blocks"
            + ("; the text counts as one block of those that a row keeps" if spec.text else "")
            + f"; choosing takes about {spec.always.numel() * BYTES_A_PAIR / 2**20:.0f} MiB a head and batch "
            "row in each call"
        )
        return "; ".join(filter(None, (least, super().remark(spec, device))))

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return RectifiedCore(self, site, run, inner)

    def _tile(self, grid: Grid) -> Grid:
        """Find the most even tile of a block: for 128 tokens 8 x 16, or 2 x 8 x 8 in videos."""
        depth = 1 if grid[0] == 1 else 2
        height = 1 << ((self.block // depth).bit_length() - 1) // 2
        return depth, height, self.block // depth // height


class RectifiedCore(SparseCore):
    """Chooses blocks, then attends over them; counts its last choice for the report."""

    method: RectifiedSparse
    counts: Tensor | None = None  # as `Selection.count`; stays on the device, so that no call waits for it

    def attend(self, q: Tensor, k: Tensor, v: Tensor, placed: PlacedPlan) -> Tensor:
        found = select(q, k, v, placed.plan, self.method.p_remaining)
        if not torch.compiler.is_compiling():
            self.counts = found.count(placed.plan)
        plan = replace(placed.plan, row_ptr=found.row_ptr, col=found.col)
        return self.operator(placed)(q, k, v, plan, gain=found.gain, bias=found.bias)[0]

    def describe(self) -> dict[str, Any]:
        facts = super().describe()
        if facts.get("backend", "dense") == "dense":
            return facts
        if self.counts is None:
            return facts | {"why": f"{facts['why']}; density as planned, compiled calls are not counted"}
        pairs, every, full, blocks = self.counts.tolist()
        return facts | {"density": pairs / every, "full_share": full / blocks}
