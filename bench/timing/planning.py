"""Measure how long a session plans, on one core: for presets at their usual sizes, and for the largest ones.

    python -m bench.timing.planning                     about a minute
    python -m bench.timing.planning --only 8192         some cases

A session specifies a plan, decides whether it pays, builds it and places it in the sequence. The time is that
of the process, the least of three runs, so that a busy machine matters little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import diffusers_ext as dx
from diffusers_ext.core import Layout
from diffusers_ext.kernels.block_sparse.capabilities import Choice
from diffusers_ext.kernels.block_sparse.gains import USUAL
from diffusers_ext.models.presets import shipped
from diffusers_ext.models.sizes import Grid
from diffusers_ext.processors.sparse.method import SparseMethod
from diffusers_ext.processors.sparse.placement import PlacedPlan, place

from ..ledger import Row
from ..runner import options, run

REPEATS = 3
LINE = "{case:44} {tokens:7} {blocks:9} {seconds:6.3f} {plan_mib:6.1f}"
FLUX_8K = Grid(1, 512, 512, text=512)
HUNYUAN_509 = Grid(128, 45, 80, text=256)
LARGE: tuple[tuple[str, Grid, SparseMethod], ...] = (
    ("FLUX.1, 8192 px, clear 8", FLUX_8K, dx.CLEAR(8)),
    ("FLUX.1, 8192 px, clear 32", FLUX_8K, dx.CLEAR(32)),
    ("FLUX.1, 8192 px, clear 16, whole tiles", FLUX_8K, dx.CLEAR(16, reduce="block")),
    ("FLUX.1, 8192 px, gna 80", FLUX_8K, dx.GNA((80, 80))),
    ("FLUX.1, 8192 px, gna 80, whole tiles", FLUX_8K, dx.GNA((80, 80), reduce="block")),
    ("FLUX.1, 8192 px, rectified", FLUX_8K, dx.RectifiedSparse()),
    ("HunyuanVideo, 509 frames, gna", HUNYUAN_509, dx.GNA((18, 24, 24), (2, 8, 8))),
    ("HunyuanVideo, 509 frames, gna, stride 1", HUNYUAN_509, dx.GNA((18, 24, 24))),
    ("HunyuanVideo, 509 frames, gna, whole tiles", HUNYUAN_509, dx.GNA((18, 24, 24), reduce="block")),
    ("HunyuanVideo, 509 frames, radial", HUNYUAN_509, dx.Radial(0.95, sink_frames=0)),
    ("HunyuanVideo, 509 frames, radial, whole blocks", HUNYUAN_509, dx.Radial(0.95, reduce="block")),
    ("HunyuanVideo, 509 frames, rectified", HUNYUAN_509, dx.RectifiedSparse()),
)  # fmt: skip


def cases() -> dict[str, tuple[Grid, SparseMethod]]:
    """Return grids and methods by name."""
    found = {}
    for name, preset in shipped().items():
        for method in preset.settings:
            built = dx.preset(name, method)
            if isinstance(built, SparseMethod):
                found[f"{name}, {method}"] = preset.tokens.grid({}), built
    return found | {name: (grid, method) for name, grid, method in LARGE}


def lay_out(grid: Grid, method: SparseMethod) -> PlacedPlan:
    """Do what a session does for a plan."""
    tokens = math.prod(grid.shape)
    layout = Layout(grid.shape, slice(tokens, tokens + grid.text), slice(0, tokens))
    spec = method.plan_spec(grid.shape, grid.text, text_rows=False)
    method.expect(spec, "triton", USUAL)
    return place(spec, Choice("triton", "asked for"), layout, torch.device("cpu"))


def measure(name: str, grid: Grid, method: SparseMethod) -> list[Row]:
    """Return the row of one plan; `seconds` are those of the process."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        plan = lay_out(grid, method).plan
        times.append(time.process_time() - began)
    facts = dict(case=name, grid=list(grid.shape), text=grid.text, tokens=plan.s_kv, blocks=plan.visited)
    return [facts | dict(seconds=min(times), plan_mib=plan.bytes / 2**20, ok=True)]


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure all plans, or some."""
    args = options(__doc__, device="cpu").parse_args(arguments)
    found: dict[str, Callable[[], Any]] = {
        name: partial(measure, name, *case) for name, case in cases().items()
    }
    return run("planning", found, args, LINE, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
