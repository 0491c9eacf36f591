"""Time the parts that attention over plans is made of: what forecasts and thresholds are computed from.

    python -m bench.timing.rates                               on a GPU, about a minute and a half
    python -m bench.timing.rates --only ceiling                what the machine can do at best
    python -m bench.timing.rates --device cpu                  the same at tiny sizes, seconds

- "ceiling": a matrix product, a copy, and dense attention by the machine's fastest back-end.
- "blocks": plans whose rows all visit the same number of blocks, all FULL or all PARTIAL, for each rule, size
  of heads and form of the kernel. `python -m bench.gpu --fit DIR` computes from them what a PARTIAL block
  costs beside a FULL one, and up to which cost a plan beats dense attention.
- "gather", "select" and "host": what sessions do beside the kernel.

`rate` is in TFLOP/s of visited blocks, in GB/s read and written, or in us of the host for a call. Each row of
attention over a plan comes with the error of sampled rows. Rows are written at once, and kept by later runs
while the sources are the same.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusers_ext.kernels.block_sparse.gains import device_class
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.kernels.geometry import Grid
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec

from ..ledger import Row
from ..runner import Cases, options, run
from .dense import fastest_dense
from .forms import CHANGES, LOOKED, forms, kernel_forms
from .listed import FIELDS, TINY, Field, listed_error
from .reference_rows import TOLERANCE
from .sources import checksum
from .stopwatch import Call, Stopwatch, in_turns, machine

SECONDS, REPEATS = 0.2, 5  # time of measuring a row, and the least number of rounds
SOURCES = (
    "diffusers_ext/kernels/**/*.py",
    *(f"bench/timing/{name}.py" for name in ("rates", "listed", "forms", "dense", "stopwatch")),
)
LINE = "{case:52} {tokens:7} {ms:9.3f} {low_ms:9.3f} {high_ms:9.3f} {rate:8.1f} {unit:8} {error:.1e}"
HEADS = 24
CHANNELS = (128, 64)  # of a head
# (grid, text) of the largest plans that sessions choose by the data
LARGE = {"hunyuan-video 720p": ((33, 45, 80), 256), "flux.1 4096 px": ((1, 256, 256), 512)}


class Bench:
    """The rows of one device: tensors of its dtype, and one stopwatch for all of them."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.tiny = device == "cpu"
        self.dtype = torch.float32 if self.tiny else torch.bfloat16
        self.heads = 2 if self.tiny else HEADS
        self.watch = Stopwatch(device)

    def random(self, *shape: int) -> Tensor:
        """Return seeded normal numbers."""
        g = torch.Generator(self.device).manual_seed(0)
        return torch.randn(*shape, generator=g, device=self.device, dtype=self.dtype)

    def operands(self, tokens: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, `[1, tokens, H, channels]`, as a fused projection leaves them."""
        return self.random(1, tokens, 3, self.heads, channels).unbind(2)

    def timed(self, case: str, call: Call, amount: float, unit: str, **facts: Any) -> Row:
        """Return the row of a call that computes or moves an `amount`, in operations or bytes."""
        call()
        (times,) = in_turns(self.watch, call, repeats=REPEATS, seconds=SECONDS)
        rate = amount / {"TFLOP/s": 1e9, "GB/s": 1e6}[unit] / statistics.median(times)
        return self.row(case, times, rate, unit, **facts)

    def row(
        self, case: str, times: Sequence[float], rate: float, unit: str, error: float = 0.0, **facts: Any
    ) -> Row:
        """Return a row with the median of some times in ms, and their quartiles."""
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        row = {"case": case, "tokens": 0, "ms": middle, "low_ms": low, "high_ms": high, "n": len(times)}
        row |= {"rate": rate, "unit": unit, "error": error, "sources": sources()}
        return row | {"ok": error <= TOLERANCE[self.dtype]} | facts

    def product(self, case: str) -> Iterator[Row]:
        n = 256 if self.tiny else 8192
        a, b = self.random(n, n), self.random(n, n)
        yield self.timed(case, lambda: a @ b, 2 * n**3, "TFLOP/s")

    def copy(self, case: str) -> Iterator[Row]:
        x = torch.ones(1 << (20 if self.tiny else 32), dtype=torch.int8, device=self.device)
        y = torch.empty_like(x)
        yield self.timed(case, lambda: y.copy_(x), 2 * x.numel(), "GB/s")

    def dense(self, case: str, tokens: int, channels: int) -> Iterator[Row]:
        """Yield the row of dense attention over `tokens`, of which every pair counts as visited."""
        q, k, v = self.operands(tokens, channels)
        backend, call = fastest_dense(q, k, v, self.watch)
        flops = 4 * tokens**2 * self.heads * channels
        facts = {"kind": "dense", "tokens": tokens, "head_dim": channels, "backend": backend}
        yield self.timed(case, call, flops, "TFLOP/s", **facts)

    def blocks(
        self, case: str, name: str, field: Field, form: str, channels: int, count: int, full: bool
    ) -> Iterator[Row]:
        """Yield the row of one plan of `listed.py`, with what `gpu_fit` needs of it."""
        plan = field.plan(count, full, self.device)
        attend = forms(self.device)[form]
        q, k, v = self.operands(plan.s_q, channels)
        error = listed_error(q, k, v, attend(q, k, v, plan), plan)
        flops = 4 * plan.visited * plan.block_q * plan.block_k * self.heads * channels
        facts = {"kind": "full" if full else "partial", "rule": name, "form": form, "head_dim": channels}
        facts |= {"blocks": count, "rows": plan.rows, "columns": -(-plan.s_kv // plan.block_k)}
        facts |= {"tokens": plan.s_q, "error": error}
        yield self.timed(case, partial(attend, q, k, v, plan), flops, "TFLOP/s", **facts)

    def gather(self, case: str) -> Iterator[Row]:
        """Yield what it takes to put q, k and v in order and the result back, at the largest grid."""
        grid: Grid = (2, 8, 12) if self.tiny else LARGE["hunyuan-video 720p"][0]
        tokens = grid[0] * grid[1] * grid[2]
        spec = DynamicPlanSpec(grid, 0, (2, 8, 8), (2, 8, 8), 0.2, text_rows=False)
        order = spec.q_order.to(self.device)
        parts = [*self.operands(tokens, 32 if self.tiny else 128), self.random(1, tokens, self.heads, 128)]
        moved = 2 * sum(x.numel() * x.element_size() for x in parts)
        yield self.timed(
            case, lambda: [x.index_select(1, order) for x in parts], moved, "GB/s", tokens=tokens
        )

    def select(self, case: str, grid: Grid, text: int) -> Iterator[Row]:
        """Yield what it takes to choose blocks by the data; `rate` counts q, k and v once each."""
        tile = (1, 8, 16) if grid[0] == 1 else (2, 8, 8)
        plan = DynamicPlanSpec(grid, text, tile, tile, 0.2, text_rows=False).build(self.device)
        q, k, v = self.operands(plan.s_kv, 32 if self.tiny else 128)
        q = q[:, : plan.s_q]
        read = sum(x.numel() * x.element_size() for x in (q, k, v))
        yield self.timed(case, lambda: select(q, k, v, plan, 0.3), read, "GB/s", tokens=plan.s_q)

    def host(self, case: str, field: Field, form: str) -> Iterator[Row]:
        """Yield what the host needs for one call of attention over a plan; on a CPU that is all of it."""
        plan = field.plan(1, True, self.device)
        q, k, v = self.operands(plan.s_q, 32 if self.tiny else 128)
        attend = forms(self.device)[form]
        attend(q, k, v, plan)
        times = []
        for _ in range(5 if self.tiny else 50):  # fewer than a GPU can hold back
            began = time.perf_counter()
            attend(q, k, v, plan)
            times.append(1e3 * (time.perf_counter() - began))
        yield self.row(case, times, 1e3 * statistics.median(times), "us", tokens=plan.s_q)


def sources() -> str:
    """Return the checksum of the code that the times depend on."""
    return checksum(SOURCES)


def cases(device: str) -> Cases:
    """Return all cases of a device, those first that all others are compared with."""
    bench = Bench(device)
    fields, sizes = (TINY, (32,)) if bench.tiny else (FIELDS, CHANNELS)
    counts = (1, 2, 4) if bench.tiny else (1, 4, 16, 64)
    found: dict[str, Callable[[], Iterator[Row]]] = {}

    def add(case: str, rows: Callable[..., Iterator[Row]], *arguments: object) -> None:
        found[case] = partial(rows, case, *arguments)

    def blocks(field: Field, name: str, form: str, channels: int, count: int, full: bool) -> None:
        kind = "FULL" if full else "PARTIAL"
        label = f"blocks: {count:2} {kind} a row, {name}, D={channels}, {form}"
        add(label, bench.blocks, name, field, form, channels, count, full)

    add("ceiling: matrix product", bench.product)
    add("ceiling: copy", bench.copy)
    (first, *_) = fields.values()
    tokens = first.grid[0] * first.grid[1] * first.grid[2]
    for channels in sizes:
        for length in (tokens,) if bench.tiny else (4608, tokens, 66048):
            add(f"ceiling: dense, {length} tokens, D={channels}", bench.dense, length, channels)
    kernels, every = kernel_forms(device), forms(device)
    for channels in sizes:
        for form in kernels:
            for name, field in fields.items():
                if form == LOOKED and not field.ruled:
                    continue  # there is nothing to look up
                for full in (True, False):
                    for count in counts:
                        blocks(field, name, form, channels, count, full)
    for form in [form for form in every if form not in kernels]:
        rule, channels = CHANGES[form].rule, sizes[0] if bench.tiny else CHANGES[form].channels
        for full in (True, False)[: 1 if rule == "none" else 2]:
            blocks(fields[rule], rule, form, channels, counts[-1], full)
    add("gather: q, k, v and out", bench.gather)
    for label, (grid, text) in {"tiny": ((2, 8, 12), 5)}.items() if bench.tiny else LARGE.items():
        add(f"select: {label}", bench.select, grid, text)
    for form in kernels:
        add(f"host: {form}", bench.host, first, form)
    return found


@torch.no_grad()
def main(arguments: list[str] | None = None) -> list[Row]:
    args = options(__doc__, keeps=True).parse_args(arguments)
    machine(args.device)  # ends here without one
    facts = {"class": device_class(args.device)}
    return run("rates", cases(args.device), args, LINE, sources=sources(), **facts)


if __name__ == "__main__":
    main()
