"""Time blocks of real transformers end to end: stock processors against each sparse method of `dx.apply`.

    python -m bench.timing.blocks                              every case, on a GPU, 20 minutes or so
    python -m bench.timing.blocks --only flux.1 --minutes 9    stops in time; the next run goes on from there
    python -m bench.timing.blocks --device cpu                 a tiny case a family, seconds

Each case is a slice of a model (`slices.py`) at a size of its preset, with the settings of the preset. Dense
first steps and layers are left out, so a sparse step is timed. Dense and sparse calls alternate, each after a
flush of the cache. All cases run uncompiled, then all with compiled blocks, which take longer. On a CPU
compiled blocks run only with `--modes`, and are only traced into full graphs.

`expected_gain` follows from the share of attention in the time and from the gain that `dx.plan` predicts.
Every time comes with the error of sampled rows of attention against explicit masks in fp32
(`block_checks.py`). Our dense processors must agree with the stock ones, and compiled blocks with eager ones.
Rows are written at once. Later runs keep them while the sources that they depend on are the same. A failed
case is recorded with its error.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import diffusers_ext as dx
from diffusers_ext.core import Method

from ..ledger import Row
from ..runner import Latest, options, run
from .block_cases import Case, cases, quick_cases, tiny_cases
from .block_checks import Call, RecordCalls, call_error
from .reference_rows import TOLERANCE, rms_ratio
from .slices import SLICES, sharing_weights
from .sources import checksum
from .stopwatch import Stopwatch, in_turns

SOURCES = (
    "diffusers_ext/kernels/**/*.py",
    "diffusers_ext/processors/**/*.py",
    "diffusers_ext/families/*.py",
    "bench/timing/slices.py",
)
MODES = "eager", "compiled"
SECONDS, REPEATS = 3.0, 5  # time of measuring dense and sparse in turns, and the least number of rounds
LINE = (
    "{case:60} {mode:8} {tokens:7} {density:.4f} {attention_share:.2f} {attention_gain:6.2f} "
    "{predicted_gain:6.2f} {expected_gain:.2f} {gain:6.2f} {gain_low:6.2f} {gain_high:6.2f} "
    "{dense_ms:9.2f} {sparse_ms:9.2f} {error:.1e} {drift:.1e} {backend:9} {why}"
)


@torch.no_grad()
def measure(
    case: Case, base: nn.Module, device: str, dtype: torch.dtype, modes: Sequence[str] = MODES
) -> Iterator[Row]:
    """Yield the row of eager blocks, then the row of compiled ones; the slice `base` stays unchanged.

    `mode` is eager or compiled. Times are in ms, errors are RMS over RMS. `attention_share` is the share of
    attention in the dense time, and `attention_gain` the gain of the sparse method there (measured eager).
    `predicted_gain` is the gain by `dx.plan`, an upper limit. `gain` of the blocks is the median of the
    ratios of neighbouring calls, between the quartiles `gain_low` and `gain_high`. `error` compares attention
    with explicit masks, `parity` our dense processors with the stock ones, `drift` compiled blocks with eager
    ones.
    """
    model, grid = SLICES[case.model], case.grid
    call = model.call(base, grid, device, dtype)
    dense, sparse = sharing_weights(base), sharing_weights(base)
    watch = Stopwatch(device)

    def stock() -> Tensor:
        return dense(**call)[0]

    def ours() -> Tensor:
        return sparse(**call)[0]

    plain = stock()
    with dx.apply(sparse):
        parity = rms_ratio(ours(), plain)
    facts, dense_attention, outcome = attention(case.method, sparse, ours, plain, watch)
    predicted = dx.plan(grid, case.method).predicted_speedup if facts["backend"] != "dense" else 1.0

    def row(mode: str, drift: float, allowed: float) -> Row:
        stock(), ours()
        repeats = 3 if device == "cpu" else REPEATS
        times = in_turns(watch, stock, ours, repeats=repeats, seconds=SECONDS)
        low, middle, high = statistics.quantiles([a / b for a, b in zip(*times, strict=True)], n=4)
        dense_ms, sparse_ms = map(statistics.median, times)
        share = min(1.0, dense_attention / dense_ms)
        limit = TOLERANCE[dtype]
        return dict(
            case=case.name, mode=mode, tokens=grid.t * grid.h * grid.w + grid.text, **facts,
            attention_share=share, predicted_gain=predicted,
            expected_gain=1 / (1 - share + share / predicted), gain=middle, gain_low=low, gain_high=high,
            dense_ms=dense_ms, sparse_ms=sparse_ms, parity=parity, drift=drift,
            ok=max(facts["error"], parity) <= limit and drift <= allowed, sources=sources(),
        )  # fmt: skip

    with dx.apply(sparse, case.method):
        if "eager" in modes:
            yield row("eager", 0.0, 0.0)
        if "compiled" not in modes:
            return
        torch._dynamo.reset()
        for part in (dense, sparse):
            model.compile(part, "eager" if device == "cpu" else "inductor")
        # Rounding differs in compiled blocks; the dense ones show how much.
        drift, usual = rms_ratio(ours(), outcome), rms_ratio(stock(), plain)
        yield row("compiled", drift, max(TOLERANCE[dtype], 2 * usual))
    torch._dynamo.reset()


def attention(
    method: Method, model: nn.Module, run: Callable[[], Tensor], plain: Tensor, watch: Stopwatch
) -> tuple[dict[str, Any], float, Tensor]:
    """Return what a session reports on the attention of a slice, with its error and gain.

    Also returns the ms of dense attention and the output of the slice. `plain` is the output of stock
    processors.
    """
    recorder = RecordCalls()
    with dx.apply(model, method, recorder) as session:
        outcome = run()
        sites = [site for site in session.report().sites if method.name in site.methods]
        backend = "+".join(sorted({site.backend for site in sites}))
        facts = {
            "backend": backend,
            "why": sites[0].why,
            "density": statistics.mean(site.density for site in sites),
            "full_share": statistics.mean(site.full_share for site in sites),
            "order": sites[0].order,
            "error": rms_ratio(outcome, plain),  # if attention stayed dense
        }
        cores = {site.name: core for site, core in session.cores(method).items()}
        if backend != "dense":
            facts["error"] = max(call_error(cores[name], call) for name, call in recorder.kept.items())
        dense_ms = sparse_ms = 0.0
        for (name, call), count in alike(recorder.kept):
            stock = model.get_submodule(name).processor.dense
            ours, theirs = partial(cores[name], *call.given), partial(stock, *call.given)
            session.run.reordered = call.order is not None  # as in the call that was recorded
            took = [statistics.median(times) for times in in_turns(watch, theirs, ours)]
            session.run.reordered = False
            dense_ms, sparse_ms = dense_ms + count * took[0], sparse_ms + count * took[1]
    return facts | {"attention_gain": dense_ms / sparse_ms}, dense_ms, outcome


def alike(kept: Mapping[str, Call]) -> list[tuple[tuple[str, Call], int]]:
    """Return the first of all calls with tensors of the same shapes, with their number."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for name, call in kept.items():
        key = call.q.shape, call.k.shape, call.mask is None, call.order is None
        found.setdefault(key, [(name, call), 0])[1] += 1
    return [(first, count) for first, count in found.values()]


def sources() -> str:
    """Return the checksum of the code that the times depend on."""
    return checksum(SOURCES)


def name(row: Row) -> str:
    """Return the name by which a later run finds a row."""
    return f"{row['case']} {row['mode']}"


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__, keeps=True)
    parser.add_argument("--modes", nargs="+", choices=MODES, help="both on a GPU, eager on a CPU if left out")
    parser.add_argument("--quick", action="store_true", help="a few cases: two of FLUX.1, three of clips")
    parser.add_argument("--minutes", type=float, help="begin no case after so long; run again to go on")
    args = parser.parse_args(arguments)
    cuda = args.device != "cpu"
    dtype, modes = (torch.bfloat16, MODES) if cuda else (torch.float32, MODES[:1])
    built = Latest(lambda case: SLICES[case[0]].build(case[1], args.device, dtype))

    def cell(case: Case, mode: str) -> Iterator[Row]:
        return measure(case, built((case.model, case.tiny)), args.device, dtype, [mode])

    wanted = {
        f"{case.name} {mode}": partial(cell, case, mode)
        for mode in args.modes or modes
        for case in (tiny_cases() if not cuda else quick_cases() if args.quick else cases())
    }
    return run("blocks", wanted, args, LINE, sources=sources(), name=name)


if __name__ == "__main__":
    main()
