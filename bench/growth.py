"""How attention time grows with the number of tokens: sparse back-ends against dense attention, side by side.

    python -m bench.growth                          reference and flex on a CPU, about five minutes
    python -m bench.growth --device cuda            Triton
    python -m bench.growth --largest 4096           shorter

For each method the slope of log time over log tokens is fitted over all sizes but the smallest: near 2 for
dense attention, near 1 where
every token sees a fixed number of others (CLEAR, GNA), and in between for radial attention, whose work grows
as n log n. The slope of the work itself (visited block pairs) stands beside it: it is exact and belongs to
the method, the other to the machine. Beside every time stands the error of sampled rows against attention
over the explicit mask.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_ext.kernels.block_sparse import flex, ops, reference
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.box import Window
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.plan import BlockPlan
from diffusers_ext.kernels.recipe import Recipe

from .rows import TOLERANCE, sampled_error
from .timing import RESULTS, Stopwatch, machine, results_file, save

HEADS, HEAD_DIM = 2, 64
REPEATS = 3
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One size of one method on one back-end; times in ms, `work` in pairs multiplied."""

    method: str
    backend: str
    tokens: int
    work: int
    ms: float
    dense_ms: float
    error: float
    ok: bool


def recipes(tokens: int) -> Iterator[tuple[str, Recipe]]:
    """CLEAR and GNA on a square image, radial attention on clips of 256 tokens a frame."""
    side, frames = math.isqrt(tokens), tokens // 256
    image, tile = (1, side, side), (1, 8, 8)
    yield "clear r=8", Recipe(Disk(8), image, 0, 64, 64, tile, tile)
    yield "gna 17x17", Recipe(Window(image, (1, 17, 17)), image, 0, 64, 64, tile, tile)
    yield "radial", Recipe(Band(release_reach(frames, 256, 1.0), 16), (frames, 16, 16), 0, 64, 64)


def backends(plan: BlockPlan, device: str) -> dict[str, Attention]:
    """The back-ends of the machine, by name."""
    if device != "cpu":
        return {"triton": lambda q, k, v: ops.attention(q, k, v, plan)[0]}
    run = flex.prepare(plan)
    return {
        "reference": lambda q, k, v: reference.attention(q, k, v, plan)[0],
        "flex": lambda q, k, v: run(q, k, v, plan)[0],
    }


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def measure(name: str, recipe: Recipe, device: str) -> Iterator[Row]:
    """Rows of one size: all back-ends and dense attention in turns."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    plan, watch = recipe.build(device), Stopwatch(device)
    g = torch.Generator(device).manual_seed(0)
    q, k, v = torch.randn(1, plan.s_q, 3, HEADS, HEAD_DIM, generator=g, device=device, dtype=dtype).unbind(2)
    runs = backends(plan, device)
    errors = {label: sampled_error(q, k, v, run(q, k, v), plan) for label, run in runs.items()}
    dense(q, k, v)
    times: dict[str, list[float]] = {label: [] for label in ("dense", *runs)}
    for _ in range(REPEATS):
        for label, run in (("dense", dense), *runs.items()):
            times[label].append(watch(lambda run=run: run(q, k, v)))
    best = {label: min(values) for label, values in times.items()}
    for label in runs:
        work = plan.visited * recipe.block_q * recipe.block_k
        ok = errors[label] <= TOLERANCE[dtype]
        yield Row(name, label, plan.s_q, work, best[label], best["dense"], errors[label], ok)


def slope(x: list[float], y: list[float]) -> float:
    """Least-squares exponent of y ~ x ** slope over all sizes but the smallest."""
    return float(np.polyfit(np.log(x[1:]), np.log(y[1:]), 1)[0])


def fits(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Exponents by 'method, back-end', and of dense attention."""
    found = {}
    for method, backend in dict.fromkeys((r.method, r.backend) for r in rows):
        chosen = [r for r in rows if (r.method, r.backend) == (method, backend)]
        tokens = [float(r.tokens) for r in chosen]
        found[f"{method}, {backend}"] = {
            "time": slope(tokens, [r.ms for r in chosen]),
            "work": slope(tokens, [float(r.work) for r in chosen]),
        }
    sizes = sorted({r.tokens for r in rows})
    ms = [statistics.median(r.dense_ms for r in rows if r.tokens == n) for n in sizes]
    return found | {"dense": {"time": slope([float(n) for n in sizes], ms), "work": 2.0}}


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--largest", type=int, help="tokens of the largest size, at least 4096")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results as JSON")
    args = parser.parse_args(arguments)
    largest = args.largest or (16384 if args.device == "cpu" else 262144)
    if largest < 4096:
        parser.error(f"--largest must be 4096 or more, got {largest}; a slope needs three sizes")
    sizes = [n for n in (1024, 2304, 4096, 9216, 16384, 36864, 65536, 147456, 262144) if n <= largest]
    where = machine(args.device)
    path = results_file(args.out, "growth", where)
    rows: list[Row] = []
    print("method       back-end    tokens        ms  dense ms speedup    error  check")
    for tokens in sizes:
        for name, recipe in recipes(tokens):
            for r in measure(name, recipe, args.device):
                rows.append(r)
                print(
                    f"{r.method:12} {r.backend:10} {r.tokens:7} {r.ms:9.2f} {r.dense_ms:9.2f} "
                    f"{r.dense_ms / r.ms:7.2f} {r.error:8.1e}  {'ok' if r.ok else 'FAILED'}",
                    flush=True,
                )
        save(path, where, rows, threads=torch.get_num_threads(), exponents={})
    found = fits(rows)
    for label, exponents in found.items():
        print(f"{label:24} time ~ n^{exponents['time']:.2f}, work ~ n^{exponents['work']:.2f}")
    save(path, where, rows, threads=torch.get_num_threads(), exponents=found)
    if not all(r.ok for r in rows):
        raise SystemExit("error: a check failed, see the table; the times beside it mean nothing.")
    return found


if __name__ == "__main__":
    main()
