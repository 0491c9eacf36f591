"""Compare plans of published settings with checks inside tiles and without (`reduce="block"`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers_ext as dx

from .markdown import markdown

CASES: tuple[tuple[str, dict[str, int], Any], ...] = (
    ("flux.1-dev", {"height": 1024, "width": 1024}, dx.CLEAR(16)),
    ("flux.1-dev", {"height": 2048, "width": 2048}, dx.CLEAR(16)),
    ("flux.1-dev", {"height": 2048, "width": 2048}, dx.CLEAR(32)),
    ("hunyuan-video", {}, dx.GNA((18, 24, 24))),
    ("hunyuan-video", {}, dx.GNA((18, 24, 24), (16, 8, 8))),
    ("hunyuan-video", {}, dx.GNA((10, 16, 32))),
)


def to_markdown() -> str:
    """Return density and best possible speed-up of each case, either way."""
    rows = []
    for model, size, method in CASES:
        exact, tiled = (dx.plan(model, replace(method, reduce=way), **size) for way in ("token", "block"))
        grid = " x ".join(map(str, exact.grid))
        speeds = [f"{f.block_density:.3f}, {f.predicted_speedup:.1f} x" for f in (exact, tiled)]
        rows.append([f"{model}, {grid}", _named(method), f"{exact.token_density:.3f}", *speeds])
    heads = ["model, tokens", "method", "pairs", "blocks, `token`", "blocks, `block`"]
    return markdown(heads, rows)


def _named(method: Any) -> str:
    if isinstance(method, dx.CLEAR):
        return f"clear, radius {method.radius}"
    window, stride = ("x".join(map(str, edges)) for edges in (method.window, method.stride))
    return f"gna, window {window}, stride {stride}"
