"""Time block-sparse attention against the machine's fastest dense attention, at the shapes of real models.

    python -m bench.timing.sparse_kernels                      every shape, on a GPU
    python -m bench.timing.sparse_kernels --device cpu --only tiny

Sparse and dense calls alternate in one run, each after a flush of the cache. Every time comes with the error
of sampled rows against attention over explicit masks in fp32. `limit` is the time that the fastest dense
kernel would need for the visited blocks alone; `efficiency` is `limit` over the measured time. Text queries
are part of the sparse call. Rectified attention is timed with its choice of blocks, and leaves text queries
to dense attention. Results are written after each case.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.kernels.geometry import Grid
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.rule import Rule
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ..ledger import Row
from ..runner import options, run
from .reference_rows import TOLERANCE, attend_chosen, gradient_error, rectified_error, sampled_error
from .stopwatch import Stopwatch, in_turns

DENSE = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
SECONDS, REPEATS = 4.0, 5  # time of measuring a case, and the least number of rounds

LINE = (
    "{case:34} {tokens:7} {token_density:.4f} {block_density:.4f} {full_share:.2f} {dense_backend:18} "
    "{dense_ms:9.3f} {sparse_ms:9.3f} {speedup:.2f} {efficiency:.2f} {error:.1e}"
)


@dataclass(frozen=True)
class Case:
    """A case has one shape and rule, or a share `rule` of the blocks for rectified attention.

    The choice of rectified attention is timed too. `grads` times forward and backward together.
    """

    name: str
    rule: Rule | float
    grid: Grid
    text: int
    heads: int
    tile: Grid | None
    block: int = 128
    head_dim: int = 128
    grads: bool = False

    def plan_spec(self) -> RulePlanSpec | DynamicPlanSpec:
        """Return what shapes the plan; text queries are part of it but for rectified attention."""
        if isinstance(self.rule, float):
            return DynamicPlanSpec(self.grid, self.text, self.tile, self.tile, self.rule, text_rows=False)
        return RulePlanSpec(self.rule, self.grid, self.text, self.block, self.block, self.tile, self.tile)


def cases() -> list[Case]:
    """List FLUX at 1024 to 8192 px, Wan 480p and 720p, HunyuanVideo, and one case that a CPU can run."""
    tiny = dict(grid=(1, 9, 14), text=5, heads=2, tile=(1, 4, 4), block=16, head_dim=32)
    out = [Case("tiny clear r=3", Disk(3), **tiny), Case("tiny rectified 0.3", 0.3, **tiny)]
    for side, window in ((64, 24), (128, 40), (256, 80), (512, 80)):
        image, px = (1, side, side), f"flux {16 * side} px"
        out += [Case(f"{px} clear r={r}", Disk(r), image, 512, 24, (1, 8, 16)) for r in (8, 16)]
        wide = Window(image, (1, window, window), (1, 16, 8))
        out.append(Case(f"{px} gna {window}", wide, image, 512, 24, (1, 16, 8)))
    out.append(Case("flux 1024 px clear r=8, 64-blocks", Disk(8), (1, 64, 64), 512, 24, (1, 8, 8), 64))
    for name, grid, heads, text, window, stride, decay in (
        ("wan 480p", (21, 30, 52), 12, 0, (13, 16, 24), (2, 8, 8), 0.2),
        ("wan 720p", (21, 45, 80), 40, 0, (14, 24, 24), (2, 8, 8), 0.2),
        ("hunyuan 720p", (33, 45, 80), 24, 256, (18, 24, 24), (2, 8, 8), 0.95),
        ("hunyuan 768p", (30, 48, 80), 24, 256, (18, 24, 24), (2, 8, 8), 0.95),
    ):
        out.append(Case(f"{name} gna", Window(grid, window, stride), grid, text, heads, (2, 8, 8)))
        band = Band(release_reach(grid[0], grid[1] * grid[2], decay), grid[2])
        out.append(Case(f"{name} radial", band, grid, text, heads, None))
    # Published settings keep these shares of blocks; a share of the attention means nothing on white noise.
    for name, grid, heads, text, keep in (
        ("flux 4096 px", (1, 256, 256), 24, 512, 0.1),
        ("wan 720p", (21, 45, 80), 40, 0, 0.25),
        ("hunyuan 720p", (33, 45, 80), 24, 256, 0.2),
    ):
        tile = (1, 8, 16) if grid[0] == 1 else (2, 8, 8)
        out.append(Case(f"{name} rectified {keep}", keep, grid, text, heads, tile))
    flux = (1, 64, 64), 512, 24
    out.append(Case("flux 1024 px clear r=8, training", Disk(8), *flux, (1, 8, 16), grads=True))
    return sorted(out, key=lambda case: "8192 px" in case.name)  # whose dense calls take a second each


def fastest_dense(
    q: Tensor, k: Tensor, v: Tensor, grads: bool, watch: Stopwatch
) -> tuple[str, Callable[[], None]]:
    """Return name and call of the fastest dense back-end that takes these tensors."""
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]

    def call(backend: SDPBackend) -> None:
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(*heads_first)
        if grads:
            torch.autograd.grad(out, (q, k, v), out)

    found = []
    for backend in DENSE if q.is_cuda else (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        try:
            call(backend)
        except RuntimeError:  # not on this GPU, or not for this shape
            continue
        (times,) = in_turns(watch, partial(call, backend), repeats=2)
        found.append((min(times), backend.name, backend))
    _, name, backend = min(found)
    return name.lower(), partial(call, backend)


def measure(case: Case, device: str) -> list[Row]:
    """Return a row with times in ms, densities as fractions, and the error of a case."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    plan = case.plan_spec().build(device)
    g = torch.Generator(device).manual_seed(0)
    # as a fused projection lays them out, [B, S, 3, H, D]
    q, k, v = torch.randn(
        1, plan.s_kv, 3, case.heads, case.head_dim, generator=g, device=device, dtype=dtype
    ).unbind(2)
    if case.grads:
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    watch = Stopwatch(device)
    rectified = isinstance(case.rule, float)
    tokens = math.prod(case.grid) + case.text  # rectified attention pads the last block before the text
    real = [x[:, :tokens] for x in (q, k, v)] if rectified else (q, k, v)
    backend, dense = fastest_dense(*real, case.grads, watch)
    if rectified:
        q = q[:, : plan.s_q]
        found = select(q, k, v, plan)
        error = rectified_error(q, k, v, attend_chosen(q, k, v, plan, found), plan, found)
        pairs, every, full, kept = found.count(plan).tolist()
        facts = pairs / every, kept / found.kept.numel(), full / kept

        def sparse() -> Tensor:
            return attend_chosen(q, k, v, plan, select(q, k, v, plan))

    else:
        facts = plan.token_density, plan.block_density, plan.full_share

        def sparse() -> Tensor:
            out = api.attention(q, k, v, plan)[0]
            if case.grads:
                torch.autograd.grad(out, (q, k, v), out)
            return out

        error = sampled_error(q, k, v, sparse().detach(), plan)
        if case.grads:
            error = max(error, gradient_error(q, k, v, plan))
    repeats = 3 if device == "cpu" else REPEATS
    times = in_turns(watch, dense, sparse, repeats=repeats, seconds=SECONDS)
    dense_ms, sparse_ms = map(statistics.median, times)
    names = "token_density", "block_density", "full_share"
    row = {"case": case.name, "tokens": plan.s_q} | dict(zip(names, facts, strict=True))
    row |= {"dense_backend": backend, "dense_ms": dense_ms, "sparse_ms": sparse_ms}
    return [row | {"limit_ms": dense_ms * facts[1], "error": error, "ok": error <= TOLERANCE[dtype]}]


def derive(row: Row) -> Row:
    """Return what a line shows of a row besides its fields."""
    speedup, efficiency = (row[name] / row["sparse_ms"] for name in ("dense_ms", "limit_ms"))
    return {"speedup": speedup, "efficiency": efficiency}


def main(arguments: list[str] | None = None) -> list[Row]:
    args = options(__doc__).parse_args(arguments)
    tiny = args.device == "cpu"
    chosen = [case for case in cases() if case.name.startswith("tiny") == tiny]
    runs = {case.name: partial(measure, case, args.device) for case in chosen}
    return run("sparse_kernels", runs, args, LINE, derive=derive)


if __name__ == "__main__":
    main()
