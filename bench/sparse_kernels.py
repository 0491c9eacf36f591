"""Block-sparse attention against the fastest dense attention of the machine, at the shapes of real models.

    python -m bench.sparse_kernels                      every shape, on a GPU
    python -m bench.sparse_kernels --device cpu --only tiny

Sparse and dense calls alternate in one run, each after a flush of the cache. Beside every time stands the
error of sampled rows against attention over explicit masks in fp32. `limit` is what the fastest dense kernel
would need for the visited blocks alone; `efficiency` is that over the time measured. Text queries are part of
the sparse call; rectified attention is timed with its choice of blocks, and leaves them to dense attention.
Results are written after each case.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusers_ext.kernels.block_sparse import ops
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.kernels.candidates import DynamicPlanSpec
from diffusers_ext.kernels.geometry import Grid
from diffusers_ext.kernels.masks import Rule
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.box import Window
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.recipe import RulePlanSpec

from .ledger import Ledger
from .rows import TOLERANCE, attend_chosen, gradient_error, rectified_error, sampled_error
from .timing import RESULTS, Stopwatch, machine, results_file

DENSE = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
SECONDS = 4.0  # of measuring a case, at least `MIN_REPEATS`
MIN_REPEATS = 5


@dataclass(frozen=True)
class Case:
    """One shape and rule, or a share `rule` of the blocks for rectified attention, whose choice is timed too;
    `grads` times forward and backward together.
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

    def recipe(self) -> RulePlanSpec | DynamicPlanSpec:
        """What shapes the plan; text queries are part of it but for rectified attention."""
        if isinstance(self.rule, float):
            return DynamicPlanSpec(self.grid, self.text, self.tile, self.tile, self.rule, text_rows=False)
        return RulePlanSpec(self.rule, self.grid, self.text, self.block, self.block, self.tile, self.tile)


def _radial(grid: Grid, decay: float) -> Band:
    return Band(release_reach(grid[0], grid[1] * grid[2], decay), grid[2])


def cases() -> list[Case]:
    """FLUX at 1024 to 8192 px, Wan 480p and 720p, HunyuanVideo, and one that a CPU can do."""
    tiny = dict(grid=(1, 9, 14), text=5, heads=2, tile=(1, 4, 4), block=16, head_dim=32)
    out = [Case("tiny clear r=3", Disk(3), **tiny), Case("tiny rectified 0.3", 0.3, **tiny)]
    for side, window in ((64, 24), (128, 40), (256, 80), (512, 80)):
        image, px = (1, side, side), f"flux {16 * side} px"
        out += [Case(f"{px} clear r={r}", Disk(r), image, 512, 24, (1, 8, 16)) for r in (8, 16)]
        out.append(
            Case(
                f"{px} gna {window}",
                Window(image, (1, window, window), (1, 16, 8)),
                image,
                512,
                24,
                (1, 16, 8),
            )
        )
    out.append(Case("flux 1024 px clear r=8, 64-blocks", Disk(8), (1, 64, 64), 512, 24, (1, 8, 8), 64))
    for name, grid, heads, text, window, stride, decay in (
        ("wan 480p", (21, 30, 52), 12, 0, (13, 16, 24), (2, 8, 8), 0.2),
        ("wan 720p", (21, 45, 80), 40, 0, (14, 24, 24), (2, 8, 8), 0.2),
        ("hunyuan 720p", (33, 45, 80), 24, 256, (18, 24, 24), (2, 8, 8), 0.95),
        ("hunyuan 768p", (30, 48, 80), 24, 256, (18, 24, 24), (2, 8, 8), 0.95),
    ):
        out.append(Case(f"{name} gna", Window(grid, window, stride), grid, text, heads, (2, 8, 8)))
        out.append(Case(f"{name} radial", _radial(grid, decay), grid, text, heads, None))
    # What was published keeps these shares; shares of the attention mean nothing on white noise.
    for name, grid, heads, text, keep in (
        ("flux 4096 px", (1, 256, 256), 24, 512, 0.1),
        ("wan 720p", (21, 45, 80), 40, 0, 0.25),
        ("hunyuan 720p", (33, 45, 80), 24, 256, 0.2),
    ):
        tile = (1, 8, 16) if grid[0] == 1 else (2, 8, 8)
        out.append(Case(f"{name} rectified {keep}", keep, grid, text, heads, tile))
    out.append(
        Case("flux 1024 px clear r=8, training", Disk(8), (1, 64, 64), 512, 24, (1, 8, 16), grads=True)
    )
    return sorted(out, key=lambda case: "8192 px" in case.name)  # whose dense calls take a second each


@dataclass(frozen=True)
class Row:
    """One line of the table; times in ms, densities and efficiencies as fractions."""

    case: str
    tokens: int
    token_density: float
    block_density: float
    full_share: float
    dense_backend: str
    dense_ms: float
    sparse_ms: float
    limit_ms: float
    error: float
    ok: bool

    @property
    def efficiency(self) -> float:
        return self.limit_ms / self.sparse_ms


def fastest_dense(
    q: Tensor, k: Tensor, v: Tensor, grads: bool, watch: Stopwatch
) -> tuple[str, Callable[[], None]]:
    """Name and call of the fastest dense back-end that takes these tensors."""
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
        found.append((min(watch(lambda b=backend: call(b)) for _ in range(2)), backend.name, backend))
    _, name, backend = min(found)
    return name.lower(), lambda: call(backend)


def measure(case: Case, device: str, dtype: torch.dtype) -> Row:
    """Times and error of one case."""
    plan = case.recipe().build(device)
    g = torch.Generator(device).manual_seed(0)
    # as a fused projection lays them out, [B, S, 3, H, D]
    q, k, v = torch.randn(
        1, plan.s_kv, 3, case.heads, case.head_dim, generator=g, device=device, dtype=dtype
    ).unbind(2)
    if case.grads:
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    watch = Stopwatch(device)
    rectified = isinstance(case.rule, float)
    tokens = math.prod(case.grid) + case.text  # before text, rectified attention fills its last block up
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
            out = ops.attention(q, k, v, plan)[0]
            if case.grads:
                torch.autograd.grad(out, (q, k, v), out)
            return out

        error = sampled_error(q, k, v, sparse().detach(), plan)
        if case.grads:
            error = max(error, gradient_error(q, k, v, plan))
    dense_ms, sparse_ms, began = [], [], time.perf_counter()
    while len(dense_ms) < MIN_REPEATS or time.perf_counter() - began < SECONDS:
        dense_ms.append(watch(dense))
        sparse_ms.append(watch(sparse))
        if device == "cpu" and len(dense_ms) == 3:
            break
    dense_time, sparse_time = statistics.median(dense_ms), statistics.median(sparse_ms)
    return Row(
        case.name, plan.s_q, *facts, backend, dense_time, sparse_time, dense_time * facts[1], error,
        error <= TOLERANCE[dtype],
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="part of the names of the cases to run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results as JSON")
    args = parser.parse_args(arguments)
    cuda = args.device != "cpu"
    where = machine(args.device)
    chosen = [c for c in cases() if args.only in c.name and c.name.startswith("tiny") != cuda]
    if not chosen:
        raise SystemExit(f"error: no case for {args.device} has {args.only!r} in its name.")
    path = results_file(args.out, "sparse_kernels", where)
    ledger = Ledger(path, where, (case.name for case in chosen))
    print(
        f"{'case':34} {'tokens':>7} {'tok.dens':>8} {'blk.dens':>8} {'full':>5} {'dense ms':>9} "
        f"{'sparse ms':>9} {'speedup':>7} {'effic.':>6} {'error':>8}  check"
    )
    for case in chosen:
        with ledger.case(case.name):
            r = measure(case, args.device, torch.bfloat16 if cuda else torch.float32)
            ledger.add(r)
            print(
                f"{r.case:34} {r.tokens:7} {r.token_density:8.4f} {r.block_density:8.4f} {r.full_share:5.2f} "
                f"{r.dense_ms:9.3f} {r.sparse_ms:9.3f} {r.dense_ms / r.sparse_ms:7.2f} {r.efficiency:6.2f} "
                f"{r.error:8.1e}  {'ok' if r.ok else 'FAILED'} (dense: {r.dense_backend})",
                flush=True,
            )
    return ledger.finish()


if __name__ == "__main__":
    main()
