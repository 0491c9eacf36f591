"""Time attention as sessions run it against the fastest dense attention, at the shapes of real models.

    python -m bench.timing.sparse_kernels                      every shape, on a GPU, about six minutes
    python -m bench.timing.sparse_kernels --quick              a dozen of them, less than two
    python -m bench.timing.sparse_kernels --device cpu         a tiny case a family and method, seconds

A case is a method with the settings of its preset, at a size of its model. The core that a session binds
makes the plan and decides how tokens come into its order. `sparse_ms` is all that a layer does. Its parts are
timed beside it: the kernel, the queries of the text, the gathers, and the choice of blocks by the data.
Where tokens are put in order once a call, no layer pays for it, and `gathers_ms` is what is left.

All calls take turns, each after a flush of the cache. Every time comes with the error of sampled rows against
attention over explicit masks in fp32. `speedup` is that of a layer. `efficiency` is the time that the fastest
dense kernel would need for the visited blocks alone, over that of the kernel. Rows are written at once, and
kept by later runs while the sources are the same.
"""

import statistics
from collections.abc import Iterator
from functools import partial

import torch

from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ..gpu_fit import attending_ms
from ..ledger import Row
from ..runner import Cases, options, run
from .block_cases import Case, cases, quick_cases, settings, tiny_cases
from .dense import attend, backend_of, fastest_dense
from .forms import LOOKED
from .reference_rows import TOLERANCE, gradient_error, sampled_error
from .session_calls import SessionCall
from .sources import SESSIONS, checksum
from .stopwatch import Stopwatch, in_turns

SOURCES = (*SESSIONS, "bench/timing/sparse_kernels.py")
SECONDS, REPEATS = 3.0, 5  # time of measuring a case, and the least number of rounds
LINE = (
    "{case:58} {tokens:7} {cost:.4f} {full_share:.2f} {dense_backend:16} {dense_ms:9.3f} {sparse_ms:9.3f} "
    "{kernel_ms:9.3f} {text_ms:8.3f} {gathers_ms:8.3f} {choice_ms:8.3f} {speedup:6.2f} {efficiency:.2f} "
    "{error:.1e}"
)
# What settles most in two minutes, by model, height in px and method.
KERNELS = (
    *(("flux.1", side, name) for side in (1024, 4096, 2048) for name in ("clear", "gna")),
    *((model, 720, name) for model in ("wan2.1", "hunyuan-video") for name in ("gna", "radial")),
    ("wan2.1", 480, "radial"),
    ("hunyuan-video", 720, "rectified"),
    ("flux.1", 4096, "rectified"),
)
TRAINING = "flux.1 1024x1024 clear radius=8, forward and backward"


def all_cases() -> list[Case]:
    """Return the cases of `blocks.py`, and those at 8192 px, whose dense calls take a second each."""
    large = {"height": 8192, "width": 8192}
    wide = settings("flux.1", "gna", window=(1, 80, 80), stride=(1, 16, 16))
    return [*cases(), *(Case("flux.1", large, method) for method in (settings("flux.1", "clear"), wide))]


def measure(case: Case, device: str) -> Iterator[Row]:
    """Yield a row with times in ms, densities as fractions, and the error of a case."""
    watch, found = Stopwatch(device), []

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(backend_of(found[0]), q, k, v)

    call = SessionCall(case, device, dense)
    name, _ = fastest_dense(call.q, call.k, call.v, watch)
    found.append(name)
    error = call.error()
    parts = {
        "dense_ms": partial(dense, call.q, call.k, call.v),
        "sparse_ms": call.everything,
        "kernel_ms": call.kernel,
        "gathers_ms": call.gathers,
    }
    if case.grid.text:
        parts["text_ms"] = call.text
    if case.method.name == "rectified":
        parts["choice_ms"] = call.choice
    for part in parts.values():
        part()
    times = in_turns(watch, *parts.values(), repeats=3 if device == "cpu" else REPEATS, seconds=SECONDS)
    row = {"case": case.name, "tokens": call.q.shape[1], "queries": call.layout.tokens, "dense_backend": name}
    row |= call.facts() | {"text_ms": 0.0, "choice_ms": 0.0}
    row |= {part: statistics.median(ms) for part, ms in zip(parts, times, strict=True)}
    dtype = call.q.dtype
    row |= {"n": len(times[0]), "sources": checksum(SOURCES)}
    yield row | {"error": error, "ok": error <= TOLERANCE[dtype]}


def train(device: str) -> Iterator[Row]:
    """Yield the row of forward and backward together, over a plan whose queries include the text."""
    watch = Stopwatch(device)
    shape = ((1, 9, 14), 5, (1, 4, 4), 2, 32) if device == "cpu" else ((1, 64, 64), 512, (1, 8, 16), 24, 128)
    grid, text, tile, heads, channels = shape
    block = tile[1] * tile[2]
    plan = RulePlanSpec(Disk(3 if device == "cpu" else 8), grid, text, block, block, tile, tile).build(device)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.enable_grad():
        g = torch.Generator(device).manual_seed(0)
        qkv = torch.randn(1, plan.s_q, 3, heads, channels, generator=g, device=device, dtype=dtype)
        q, k, v = (x.detach().requires_grad_() for x in qkv.unbind(2))

        def sparse() -> torch.Tensor:
            out = api.attention(q, k, v, plan)[0]
            torch.autograd.grad(out, (q, k, v), out)
            return out

        exact = [x.detach() for x in (q, k, v)]
        error = max(sampled_error(*exact, sparse().detach(), plan), gradient_error(q, k, v, plan))
        name, dense = fastest_dense(q, k, v, watch, grads=True)
        repeats = 3 if device == "cpu" else REPEATS
        times = in_turns(watch, dense, sparse, repeats=repeats, seconds=SECONDS)
        dense_ms, ms = map(statistics.median, times)
    row = {"case": TRAINING, "tokens": plan.s_q, "queries": plan.s_q, "dense_backend": name}
    row |= {"rule": "disk", "form": LOOKED, "block_q": block, "block_k": block, "backend": "", "once": True}
    row |= {"token_density": plan.token_density, "cost": plan.block_density, "full_share": plan.full_share}
    row |= {"dense_ms": dense_ms, "sparse_ms": ms, "kernel_ms": ms, "text_ms": 0.0, "gathers_ms": 0.0}
    row |= {"choice_ms": 0.0, "n": len(times[0]), "sources": checksum(SOURCES)}
    yield row | {"error": error, "ok": error <= TOLERANCE[dtype]}


def derive(row: Row) -> Row:
    """Return what a line shows of a row besides its fields."""
    limit = row["dense_ms"] * row["cost"] * row["queries"] / row["tokens"]
    return {"speedup": row["dense_ms"] / row["sparse_ms"], "efficiency": limit / attending_ms(row)}


@torch.no_grad()
def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__, keeps=True)
    parser.add_argument("--quick", action="store_true", help="a dozen cases")
    args = parser.parse_args(arguments)
    chosen = tiny_cases() if args.device == "cpu" else quick_cases(KERNELS) if args.quick else all_cases()
    runs: Cases = {case.name: partial(measure, case, args.device) for case in chosen}
    if not args.quick:
        runs = {**runs, TRAINING: partial(train, args.device)}
    return run("sparse_kernels", runs, args, LINE, derive=derive, sources=checksum(SOURCES))


if __name__ == "__main__":
    main()
