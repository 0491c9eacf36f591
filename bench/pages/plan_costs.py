"""Show what blocks of plans cost on each back-end, and whether that was timed."""

from __future__ import annotations

from diffusers_ext.kernels.block_sparse.gains import COSTS, TITLES

from .markdown import markdown


def to_markdown() -> str:
    """Return the constants of `auto` and of forecasts, a row for each back-end and class of devices."""
    rows = [
        [
            backend,
            TITLES[device],
            f"{cost.full:g}",
            *(f"{x:g}" for x in (cost.none, cost.disk, cost.box, cost.band)),
            f"{cost.gathers:g}" if cost.gathers else "",
            cost.source,
        ]
        for (backend, device), cost in COSTS.items()
    ]
    heads = ["back-end", "device", "FULL", "PARTIAL: no rule", "disk", "window", "band", "order", "source"]
    return markdown(heads, rows)
