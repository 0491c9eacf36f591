"""Blocks of real transformers end to end: stock processors against each sparse method, through `dx.apply`.

    python -m bench.timing.blocks                              every case, on a GPU, 20 minutes or so
    python -m bench.timing.blocks --only flux.1 --minutes 9    stops in time; the next run goes on from there
    python -m bench.timing.blocks --device cpu                 a tiny case a family, seconds

Each case is a slice of a model (`slices.py`) at a size of its preset, with the settings of the preset; dense
first steps and layers are left out, so what is timed is a sparse step. Dense and sparse calls alternate,
each after a flush of the cache. All cases run as they are, then all with compiled blocks, which take longer
(on a CPU only if asked for by `--modes`, and traced into whole graphs without compiling further). `expect`
follows from the share of attention in the time and from the gain that `dx.plan` predicts for it. Beside every
time stands the error of sampled rows of attention against explicit masks in fp32 (`block_checks.py`); our
dense processors and the host's, compiled blocks and others have to agree as well. Rows are written at once,
and kept by later runs as long as the sources that they depend on are the same. A case that fails is a line
with its error.
"""

import hashlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import diffusers_ext as dx
from diffusers_ext.core import Method

from ..ledger import Row
from ..runner import Latest, options, run
from .block_cases import Case, cases, tiny_cases
from .block_checks import RecordCalls, call_error
from .reference_rows import TOLERANCE, rms_ratio
from .slices import SLICES, twin
from .stopwatch import Stopwatch, in_turns

ROOT = Path(__file__).parents[2]
SOURCES = (
    "diffusers_ext/kernels/**/*.py",
    "diffusers_ext/processors/**/*.py",
    "diffusers_ext/families/*.py",
    "bench/timing/slices.py",
)
MODES = "eager", "compiled"
SECONDS, REPEATS = 3.0, 7  # of measuring dense and sparse in turns, and at least so many times
LINE = (
    "{case:60} {mode:8} {tokens:7} {density:.4f} {attention_share:.2f} {attention_gain:6.2f} "
    "{predicted_gain:6.2f} {expected_gain:.2f} {gain:6.2f} {gain_low:6.2f} {gain_high:6.2f} "
    "{dense_ms:9.2f} {sparse_ms:9.2f} {error:.1e} {drift:.1e} {backend:9} {why}"
)


@torch.no_grad()
def measure(
    case: Case, base: nn.Module, device: str, dtype: torch.dtype, modes: Sequence[str] = MODES
) -> Iterator[Row]:
    """Return the row of eager blocks, then that of compiled ones, for a slice `base` that stays as it is.

    `mode` is eager or compiled; times are in ms, errors are RMS over RMS. `attention_share` is that of the
    dense time, `attention_gain` the gain of the sparse method there (measured eager), and `predicted_gain`
    that by `dx.plan`, an upper limit. `gain` of the blocks is the median of the ratios of neighbouring calls,
    between the quartiles `gain_low` and `gain_high`. `error` is that of attention, `parity` that of our dense
    processors, and `drift` that of compiled blocks against eager ones.
    """
    model, grid = SLICES[case.model], case.grid
    call = model.call(base, grid, device, dtype)
    dense, sparse = twin(base), twin(base)
    watch = Stopwatch(device)

    def host() -> Tensor:
        return dense(**call)[0]

    def ours() -> Tensor:
        return sparse(**call)[0]

    plain = host()
    with dx.apply(sparse):
        parity = rms_ratio(ours(), plain)
    facts, dense_attention, outcome = attention(case.method, sparse, ours, plain, watch)
    predicted = dx.plan(grid, case.method).predicted_speedup if facts["backend"] != "dense" else 1.0

    def row(mode: str, drift: float, allowed: float) -> Row:
        host(), ours()
        repeats = 3 if device == "cpu" else REPEATS
        times = in_turns(watch, host, ours, repeats=repeats, seconds=SECONDS)
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
        # Rounding differs in compiled blocks; how much is told by the dense ones.
        drift, usual = rms_ratio(ours(), outcome), rms_ratio(host(), plain)
        yield row("compiled", drift, max(TOLERANCE[dtype], 2 * usual))
    torch._dynamo.reset()


def attention(
    method: Method, model: nn.Module, run: Callable[[], Tensor], plain: Tensor, watch: Stopwatch
) -> tuple[dict[str, Any], float, Tensor]:
    """Return what a session says of the attention of a slice, with its error and gain.

    After it come the ms of dense attention and the output of the slice; `plain` is the output of the host.
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
            "error": rms_ratio(outcome, plain),  # where attention stayed dense
        }
        cores = {site.name: core for site, core in session.cores(method).items()}
        if backend != "dense":
            facts["error"] = max(call_error(cores[name], call) for name, call in recorder.kept.items())
        dense_ms = sparse_ms = 0.0
        for name, call in recorder.kept.items():
            host = model.get_submodule(name).processor.dense
            ours, theirs = partial(cores[name], *call.given), partial(host, *call.given)
            took = [statistics.median(times) for times in in_turns(watch, theirs, ours)]
            dense_ms, sparse_ms = dense_ms + took[0], sparse_ms + took[1]
    return facts | {"attention_gain": dense_ms / sparse_ms}, dense_ms, outcome


@cache
def sources() -> str:
    """Return the checksum of the code that the times depend on."""
    files = [file for name in SOURCES for file in ROOT.glob(name)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def name(row: Row) -> str:
    """Return the name by which a later run finds a row."""
    return f"{row['case']} {row['mode']}"


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__)
    parser.add_argument("--modes", nargs="+", choices=MODES, help="both on a GPU, eager on a CPU if left out")
    parser.add_argument("--minutes", type=float, help="begin no case after so long; run again to go on")
    parser.add_argument("--restart", action="store_true", help="measure again what was measured already")
    args = parser.parse_args(arguments)
    cuda = args.device != "cpu"
    dtype, modes = (torch.bfloat16, MODES) if cuda else (torch.float32, MODES[:1])
    built = Latest(lambda case: SLICES[case[0]].build(case[1], args.device, dtype))

    def cell(case: Case, mode: str) -> Iterator[Row]:
        return measure(case, built((case.model, case.tiny)), args.device, dtype, [mode])

    wanted = {
        f"{case.name} {mode}": partial(cell, case, mode)
        for mode in args.modes or modes
        for case in (cases() if cuda else tiny_cases())
    }
    return run("blocks", wanted, args, LINE, sources=sources(), name=name)


if __name__ == "__main__":
    main()
