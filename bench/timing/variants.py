"""Time other forms of the kernel, and other tiles, against what sessions run, over plans of real sizes.

    python -m bench.timing.variants                            on a GPU, a minute
    python -m bench.timing.variants --device cpu               tiny, with the reference in place of Triton
    TRITON_INTERPRET=1 python -m bench.timing.variants --device cpu --only "64 keys"

A variant changes one thing: the form of the kernel, its launch settings, the blocks of keys, or FlexAttention
in its place. `gain` is the median of the ratios of neighbouring calls, between its quartiles. Each variant
comes with the error of sampled rows against explicit masks. Rows are written at once, and kept by later runs
while the sources are the same.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from diffusers_ext.kernels.geometry import Grid
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ..ledger import Row
from ..runner import Cases, options, run
from .block_cases import WIDE_720, Case, settings, shrunk
from .forms import CHANGES, SHIPPED, Attention, flex, forms, kernel_forms
from .reference_rows import TOLERANCE, sampled_error
from .session_calls import ATTENTION, TINY
from .sources import SESSIONS, checksum
from .stopwatch import Stopwatch, in_turns, machine

SOURCES = (*SESSIONS, "bench/timing/forms.py", "bench/timing/variants.py")
SECONDS, REPEATS = 0.7, 5  # time of measuring a variant, and the least number of rounds
FLEX = "flex"
LINE = (
    "{case:44} {variant:16} {cost:.4f} {full_share:.2f} {usual_ms:9.3f} {ms:9.3f} "
    "{gain:.2f} {gain_low:.2f} {gain_high:.2f} {error:.1e}"
)


@dataclass(frozen=True)
class Variant:
    """A variant has a form of `forms.py`, and tiles of queries and of keys if not those of the method."""

    form: str = SHIPPED
    tiles: tuple[Grid, Grid] | None = None


def variants(case: Case, device: str) -> dict[str, Variant]:
    """Return the variants of a case by name: forms of the kernel, other tiles, FlexAttention."""
    fitting = {form for form, change in CHANGES.items() if (change.rule, change.channels) == ("disk", 128)}
    wanted = {*kernel_forms(device), *fitting} - {SHIPPED}
    found = {form: Variant(form) for form in forms(device) if form in wanted}
    usual = case.method.plan_spec(case.grid.shape, case.grid.text, text_rows=False)
    if usual.q_tile is not None:
        t, h, w = usual.q_tile
        half = (t, h, w // 2) if t == 1 else (t // 2, h, w)
        found["half key blocks"] = Variant(tiles=(usual.q_tile, half))
        if t == 1:
            found["upright tiles"] = Variant(tiles=((t, w, h),) * 2)
    # It compiles for 20 s, so one plan has to do; on a CPU it would compile C++.
    if device != "cpu" and case.grid.t == 1:
        found[FLEX] = Variant(FLEX)
    return found


def built(case: Case, tiles: tuple[Grid, Grid] | None) -> RulePlanSpec:
    """Specify the plan of a case as sessions have it, or with other tiles."""
    facts = ATTENTION[case.model]
    spec = case.method.plan_spec(case.grid.shape, case.grid.text, text_rows=False, tile=tiles)
    spec = spec.leading() if facts.text_first else spec
    return replace(spec, masked_text=facts.masked_text and spec.text > 0)


class Variants:
    """The cells of a device; plans and tensors of a case are made for each of them."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.watch = Stopwatch(device)

    def cell(self, case: Case, name: str, variant: Variant) -> Iterator[Row]:
        """Yield the row of a variant, in turns with what sessions run."""
        facts = replace(ATTENTION[case.model], **(TINY if case.tiny else {}))
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        g = torch.Generator(self.device).manual_seed(0)
        calls, errors = [], []
        spec = built(case, variant.tiles)
        for one, form in ((built(case, None), SHIPPED), (spec, variant.form)):
            plan = one.build(self.device)
            shape = 1, max(plan.s_q, plan.s_kv), 3, facts.heads, facts.channels
            q, k, v = torch.randn(shape, generator=g, device=self.device, dtype=dtype).unbind(2)
            q, k, v = q[:, : plan.s_q], k[:, : plan.s_kv], v[:, : plan.s_kv]
            attend: Attention = flex(plan) if form == FLEX else forms(self.device)[form]
            errors.append(sampled_error(q, k, v, attend(q, k, v, plan), plan))
            calls.append(partial(attend, q, k, v, plan))
        repeats = 3 if self.device == "cpu" else REPEATS
        usual, times = in_turns(self.watch, *calls, repeats=repeats, seconds=SECONDS)
        gains = statistics.quantiles(
            [a / b for a, b in zip(usual, times, strict=True)], n=4, method="inclusive"
        )
        row = {"case": case.name, "variant": name, "cost": spec.stats.cost}
        row |= {"full_share": spec.stats.full_share, "usual_ms": statistics.median(usual)}
        row |= {"ms": statistics.median(times), "n": len(times), "error": max(errors)}
        row |= dict(zip(("gain_low", "gain", "gain_high"), gains, strict=True))
        yield row | {"sources": checksum(SOURCES), "ok": max(errors) <= TOLERANCE[dtype]}


def chosen(device: str) -> list[Case]:
    """Return a disk and a window at sizes that fill a GPU, or tiny."""
    square = {"height": 4096, "width": 4096}
    found = [
        Case("flux.1", square, settings("flux.1", "clear")),
        Case("hunyuan-video", {**WIDE_720, "num_frames": 129}, settings("hunyuan-video", "gna")),
    ]
    return [shrunk(case) for case in found] if device == "cpu" else found


@torch.no_grad()
def main(arguments: list[str] | None = None) -> list[Row]:
    args = options(__doc__, keeps=True).parse_args(arguments)
    machine(args.device)  # ends here without one
    bench = Variants(args.device)
    cells: Cases = {
        f"{case.name}: {name}": partial(bench.cell, case, name, variant)
        for case in chosen(args.device)
        for name, variant in variants(case, args.device).items()
    }
    name = "{case}: {variant}".format_map
    return run("variants", cells, args, LINE, sources=checksum(SOURCES), name=name)


if __name__ == "__main__":
    main()
