"""Blocks of real transformers end to end: stock processors against each sparse method, through `dx.apply`.

    python -m bench.blocks                              every case, on a GPU, 20 minutes or so
    python -m bench.blocks --only flux.1 --minutes 9    stops in time; the next run goes on from there
    python -m bench.blocks --device cpu                 a tiny case a family, seconds

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

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import diffusers_ext as dx
from diffusers_ext.core import Method

from .block_cases import Case, cases, tiny_cases
from .block_checks import Recorder, call_error
from .ledger import Ledger
from .rows import TOLERANCE, rms_ratio
from .slices import SLICES, twin
from .timing import RESULTS, Stopwatch, machine, results_file

ROOT = Path(__file__).parents[1]
SOURCES = (
    "diffusers_ext/kernels/**/*.py",
    "diffusers_ext/processors/**/*.py",
    "diffusers_ext/families/*.py",
    "bench/slices.py",
)
MODES = "eager", "compiled"
SECONDS, MIN_REPEATS = 3.0, 7  # of measuring dense and sparse in turns


@dataclass(frozen=True)
class Row:
    """One line of the table: `mode` is eager or compiled; times in ms, errors as RMS over RMS.

    `attention_share` of the dense time, `attention_gain` of the sparse method there (measured eager) and
    `predicted_gain` by `dx.plan`, an upper limit; `gain` of the blocks is the median of the ratios of
    neighbouring calls, between the quartiles `gain_low` and `gain_high`. `error` is that of attention,
    `parity` that of our dense processors, `drift` that of compiled blocks against eager ones.
    """

    case: str
    mode: str
    tokens: int
    backend: str
    why: str
    density: float
    full_share: float
    attention_share: float
    attention_gain: float
    predicted_gain: float
    expected_gain: float
    gain: float
    gain_low: float
    gain_high: float
    dense_ms: float
    sparse_ms: float
    error: float
    parity: float
    drift: float
    ok: bool
    sources: str

    @property
    def key(self) -> tuple[str, str]:
        """What a later run finds it by."""
        return self.case, self.mode


@torch.no_grad()
def measure(
    case: Case, base: nn.Module, device: str, dtype: torch.dtype, modes: Sequence[str] = MODES
) -> Iterator[Row]:
    """The row of eager blocks, then that of compiled ones, for a slice `base` that stays as it is."""
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
        times = in_turns(watch, host, ours, device)
        ratios = [a / b for a, b in times]
        low, middle, high = statistics.quantiles(ratios, n=4)
        dense_ms, sparse_ms = (statistics.median(x) for x in zip(*times, strict=True))
        share = min(1.0, dense_attention / dense_ms)
        limit = TOLERANCE[dtype]
        return Row(
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
    """What a session says of the attention of a slice, its error and gain; ms of dense attention; the output
    of the slice. `plain` is that of the host.
    """
    recorder = Recorder()
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
        whole = part = 0.0
        for name, call in recorder.kept.items():
            host = model.get_submodule(name).processor.dense
            times = [[watch(lambda f=f, c=call: f(*c.given)) for _ in range(3)] for f in (host, cores[name])]
            whole, part = whole + statistics.median(times[0]), part + statistics.median(times[1])
    return facts | {"attention_gain": whole / part}, whole, outcome


def in_turns(
    watch: Stopwatch, dense: Callable[[], object], sparse: Callable[[], object], device: str
) -> list[tuple[float, float]]:
    """Milliseconds of dense and of sparse calls that alternate."""
    dense(), sparse()
    times, began = [], time.perf_counter()
    while len(times) < MIN_REPEATS or time.perf_counter() - began < SECONDS:
        times.append((watch(dense), watch(sparse)))
        if device == "cpu" and len(times) == 3:
            break
    return times


@cache
def sources() -> str:
    """Checksum of the code that the times depend on."""
    files = [file for name in SOURCES for file in ROOT.glob(name)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def kept(path: Path) -> dict[tuple[str, str], Row]:
    """Good rows of an earlier run that the sources and torch still are the same for."""
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    rows = [Row(**r) for r in record["rows"] if r["sources"] == sources() and r["ok"]]
    return {row.key: row for row in rows if record["torch"] == torch.__version__}


def show(row: Row) -> None:
    """One line of the table."""
    check = "ok" if row.ok else "FAILED"
    print(
        f"{row.case:60} {row.mode:8} {row.tokens:7} {row.density:7.4f} {row.attention_share:6.2f} "
        f"{row.attention_gain:6.2f} {row.predicted_gain:6.2f} {row.expected_gain:6.2f} {row.gain:6.2f} "
        f"[{row.gain_low:.2f}, {row.gain_high:.2f}] {row.dense_ms:9.2f} {row.sparse_ms:9.2f} "
        f"{row.error:8.1e} {row.drift:8.1e}  {check} ({row.backend}: {row.why})",
        flush=True,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="part of the names of the cases to run")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="both on a GPU, eager on a CPU if left out")
    parser.add_argument("--minutes", type=float, help="begin no case after so long; run again to go on")
    parser.add_argument("--restart", action="store_true", help="measure anew what was measured already")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results as JSON")
    args = parser.parse_args(arguments)
    where, cuda = machine(args.device), args.device != "cpu"
    chosen = [c for c in (cases() if cuda else tiny_cases()) if args.only in c.name]
    if not chosen:
        raise SystemExit(f"error: no case for {args.device} has {args.only!r} in its name.")
    dtype, modes = (torch.bfloat16, MODES) if cuda else (torch.float32, MODES[:1])
    modes = args.modes or modes
    path = results_file(args.out, "blocks", where)
    done = {} if args.restart else kept(path)
    wanted = {(case.name, mode): case for mode in modes for case in chosen}
    labels = {key: " ".join(key) for key in wanted if key not in done}
    ledger = Ledger(path, where, labels.values())
    ledger.rows = list(done.values())
    print(
        f"{'case':60} {'mode':8} {'tokens':>7} {'density':>7} {'share':>6} {'attn.':>6} {'plan':>6} "
        f"{'expect':>6} {'gain':>6} {'quartiles':>12} {'dense ms':>9} {'sparse ms':>9} "
        f"{'error':>8} {'drift':>8}  check"
    )
    began, built = time.monotonic(), None
    for key, case in wanted.items():
        if key in done:
            show(done[key])
            continue
        if args.minutes is not None and time.monotonic() - began >= 60 * args.minutes:
            continue
        with ledger.case(labels[key]):
            if built is None or built[0] != case.model:
                built = None  # frees the other slice first
                built = case.model, SLICES[case.model].build(case.tiny, args.device, dtype)
            for row in measure(case, built[1], args.device, dtype, [key[1]]):
                ledger.add(row)
                show(row)
    if ledger.waiting:
        print(f"Cases left after {args.minutes} minutes: {len(ledger.waiting)}; run again to go on.")
    return ledger.finish()


if __name__ == "__main__":
    main()
