"""Measure how attention time grows with the number of tokens, for sparse back-ends and dense attention.

    python -m bench.timing.growth                          reference and flex on a CPU, about five minutes
    python -m bench.timing.growth --device cuda            Triton
    python -m bench.timing.growth --largest 4096           shorter
    python -m bench.timing.growth --again                  of this run and the last, the fastest times count

For each method the slope of log time over log tokens is fitted over all sizes but the smallest. It is about 2
for dense attention and about 1 if every token sees a fixed number of others (CLEAR, GNA). Radial attention,
whose work grows as n log n, is in between. The slope of the work itself (visited block pairs) is reported,
too. That one is exact and belongs to the method; the slope of the time belongs to the machine. Every time
comes with the error of sampled rows against attention over the explicit mask. Rows are written at once. On a
CPU with one thread, times are those of the thread, so that other programs count for little.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_ext.kernels.block_sparse import api, flex, reference
from diffusers_ext.kernels.geometry import LIMITS
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.plan import BlockPlan
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ..ledger import Ledger, Row, results_file
from ..pages.markdown import markdown
from ..runner import options, run
from .dense import fastest_dense
from .reference_rows import TOLERANCE, sampled_error
from .stopwatch import Stopwatch, in_turns, machine

HEADS = {"cpu": (2, 64), "cuda": (24, 128)}  # heads and their size; few heads would leave most of a GPU idle
SIZES = (1024, 2304, 4096, 9216, 16384, 36864, 65536, 147456, 262144)
METHODS = ("clear r=8", "gna 17x17", "radial")
FRAMES = (16, 16), (16, 32), (32, 32)  # height and width of a clip's frames in tokens
TIMES = {"ms", "dense_ms", "plain_ms"}
LINE = "{method:12} {backend:10} {tokens:7} {ms:9.2f} {dense_ms:9.2f} {speedup:.2f} {error:.1e}"
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def frame(largest: int) -> tuple[int, int]:
    """Return the smallest frame with which a plan can address clips of up to `largest` tokens.

    All sizes of a run have the same frame, as a slope over clips with frames of two sizes means nothing.
    Raises `ValueError` if there is none.
    """
    for height, width in FRAMES:
        if largest <= (LIMITS[0] + 1) * height * width:
            return height, width
    most = (LIMITS[0] + 1) * FRAMES[-1][0] * FRAMES[-1][1]
    raise ValueError(f"clips of this bench have up to {most} tokens, got {largest}; choose a smaller size")


def plan_spec(method: str, tokens: int, sides: tuple[int, int]) -> RulePlanSpec:
    """Return CLEAR and GNA on a square image, radial attention on clips with frames of `sides`.

    Rows and frames are complete, so there are up to `tokens` of them.
    """
    side, frames = math.isqrt(tokens), tokens // math.prod(sides)
    image, tile = (1, side, side), (1, 8, 8)
    if method == "clear r=8":
        return RulePlanSpec(Disk(8), image, 0, 64, 64, tile, tile)
    if method == "gna 17x17":
        return RulePlanSpec(Window(image, (1, 17, 17)), image, 0, 64, 64, tile, tile)
    reach = release_reach(frames, math.prod(sides), 1.0)
    return RulePlanSpec(Band(reach, sides[1]), (frames, *sides), 0, 64, 64)


def backends(device: str) -> tuple[str, ...]:
    """Return the names of the back-ends of the machine."""
    return ("reference", "flex") if device == "cpu" else ("triton",)


def attention(backend: str, plan: BlockPlan) -> Attention:
    """Return attention over a plan on one of them."""
    if backend == "flex":
        run = flex.prepare(plan)
        return lambda q, k, v: run(q, k, v, plan)[0]
    return lambda q, k, v: api.attention(q, k, v, plan, triton=backend == "triton")[0]


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def measure(method: str, spec: RulePlanSpec, backend: str, device: str) -> list[Row]:
    """Return the row of one size of one method on one back-end, in turns with dense attention.

    Times are in ms, `work` in pairs multiplied. `plain_ms` is the time of the arithmetic that defines the
    reference; on a CPU it runs another way.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    plan, watch = spec.build(device), Stopwatch(device, own=True)
    g = torch.Generator(device).manual_seed(0)
    shape = 1, plan.s_q, 3, *HEADS[torch.device(device).type]
    q, k, v = torch.randn(shape, generator=g, device=device, dtype=dtype).unbind(2)
    sparse = attention(backend, plan)
    error = sampled_error(q, k, v, sparse(q, k, v), plan)
    # On a GPU it takes the fastest back-end, which torch does not choose by itself everywhere.
    plain = fastest_dense(q, k, v, watch)[1] if watch.cuda else partial(dense, q, k, v)
    plain()
    calls = [plain, partial(sparse, q, k, v)]
    if backend == "reference":
        calls.append(partial(reference.attention, q, k, v, plan))
    dense_ms, ms, *slower = map(min, in_turns(watch, *calls, repeats=5))
    work = plan.visited * spec.block_q * spec.block_k
    row = {"method": method, "backend": backend, "tokens": plan.s_q, "work": work}
    row |= {"ms": ms, "dense_ms": dense_ms, "error": error}
    if slower:
        row["plain_ms"] = slower[0]
    return [row | {"ok": error <= TOLERANCE[dtype]}]


def fastest(row: Row, before: Iterable[Row]) -> Row:
    """Return a row with the fastest times of itself and of the same row `before`; noise only adds."""
    for old in before:
        if all(old[name] == row[name] for name in ("method", "backend", "tokens", "work")):
            row = row | {name: min(row[name], old.get(name, row[name])) for name in TIMES & row.keys()}
    return row


def slope(x: list[float], y: list[float]) -> float:
    """Return the least-squares exponent of y ~ x ** slope over all sizes but the smallest."""
    return float(np.polyfit(np.log(x[1:]), np.log(y[1:]), 1)[0])


def fits(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return exponents by "method, back-end", and of dense attention, if there are three sizes."""
    found = {}
    for method, backend in dict.fromkeys((r["method"], r["backend"]) for r in rows):
        chosen = [r for r in rows if (r["method"], r["backend"]) == (method, backend)]
        tokens = [float(r["tokens"]) for r in chosen]
        if len(tokens) < 3:
            continue
        found[f"{method}, {backend}"] = {
            "time": slope(tokens, [r["ms"] for r in chosen]),
            "work": slope(tokens, [float(r["work"]) for r in chosen]),
        }
    sizes = sorted({r["tokens"] for r in rows})
    ms = [statistics.median(r["dense_ms"] for r in rows if r["tokens"] == n) for n in sizes]
    if len(sizes) < 3:
        return found
    return found | {"dense": {"time": slope([float(n) for n in sizes], ms), "work": 2.0}}


def add_fits(ledger: Ledger) -> None:
    """Put the exponents into the record, and print them."""
    found = ledger.facts["exponents"] = fits(ledger.rows)
    for label, exponents in found.items():
        print(f"{label:24} time ~ n^{exponents['time']:.2f}, work ~ n^{exponents['work']:.2f}")


@torch.no_grad()
def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__, device="cpu")
    parser.add_argument("--largest", type=int, help="tokens of the largest size, at least 4096")
    parser.add_argument("--again", action="store_true", help="keep times of the last run that were faster")
    args = parser.parse_args(arguments)
    largest = args.largest or (16384 if args.device == "cpu" else 262144)
    if largest < 4096:
        parser.error(f"--largest must be 4096 or more, got {largest}; a slope needs three sizes")
    try:
        sides = frame(largest)
    except ValueError as error:
        parser.error(str(error))

    path = results_file(args.out, "growth", machine(args.device))
    before = json.loads(path.read_text())["rows"] if args.again and path.is_file() else []

    def cell(method: str, tokens: int, backend: str) -> list[Row]:
        (row,) = measure(method, plan_spec(method, tokens, sides), backend, args.device)
        return [fastest(row, before)]

    cases = {
        f"{method} {tokens} {backend}": partial(cell, method, tokens, backend)
        for tokens in SIZES
        if tokens <= largest
        for method in METHODS
        for backend in backends(args.device)
    }
    facts = {"threads": torch.get_num_threads(), "frame": sides, "exponents": {}}
    return run("growth", cases, args, LINE, derive=derive, finish=add_fits, **facts)


def derive(row: Row) -> Row:
    """Return what a line shows of a row besides its fields."""
    return {"speedup": row["dense_ms"] / row["ms"]}


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the table of a run: exponents, and the speed-up at the longest sequence."""
    rows, most = [], max(r["tokens"] for r in found["rows"])
    for r in (r for r in found["rows"] if r["tokens"] == most):
        fit = found["exponents"].get(f"{r['method']}, {r['backend']}")
        if fit and r["ok"]:
            figures = fit["time"], fit["work"], r["dense_ms"] / r["ms"]
            plain = f"{r['plain_ms'] / r['ms']:.2f}" if "plain_ms" in r else ""
            rows.append([r["method"], r["backend"], *(f"{x:.2f}" for x in figures), plain])
    rows.append(["dense", "", *(f"{x:.2f}" for x in (*found["exponents"]["dense"].values(), 1)), ""])
    heads = "method", "back-end", "time ~ tokens^", "pairs ~ tokens^", f"speed-up at {most}"
    return markdown([*heads, "over its plain arithmetic"], rows)


if __name__ == "__main__":
    main()
