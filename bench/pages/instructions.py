"""Show what `bench.compiled` and `bench.compiled_gradients` have counted, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .markdown import markdown

SHOWN = 9.0  # the compute capability of the tables; the others get a sentence
OTHERS = 8.0, 10.0
GRADIENTS = {"dq": "queries", "dkv": "keys and values"}
TITLES = {"none": "none", "disk": "disk", "box": "window", "band": "band"}
FORMS = {
    "dense": "dense attention",
    "tables": "read",
    "computed": "computed",
    "irregular": "computed, irregular",
}


def to_markdown(found: dict[str, Any]) -> str:
    """Return the instructions for 64 keys of each form of the kernel, and a sentence for other GPUs."""
    rows = [
        [
            str(row["head_dim"]),
            TITLES[row["rule"]],
            FORMS[row["form"]],
            str(row["full"]),
            "" if row["form"] == "dense" else f"+ {row['partial'] - row['full']}",
            str(row["registers"]),
            str(row["programs"]),
        ]
        for row in found["rows"]
        if row["capability"] == SHOWN
    ]
    heads = ["head", "rule", "coordinates", "FULL", "PARTIAL", "registers", "programs"]
    return "\n".join(
        [markdown(heads, rows), "", *(_other(found["rows"], capability) for capability in OTHERS)]
    )


def _other(rows: list[dict[str, Any]], capability: float) -> str:
    """Return what computed rules take on a generation of GPUs, for heads of 64 and 128."""
    ours = [r for r in rows if r["capability"] == capability and r["form"] == "computed"]
    words = []
    for head in sorted({row["head_dim"] for row in ours}):
        mine = [row for row in ours if row["head_dim"] == head and row["rule"] != "none"]
        full, more = [row["full"] for row in mine], [row["partial"] - row["full"] for row in mine]
        words.append(f"{_span(full)} (+ {_span(more)}) with heads of {head}")
    return f"- Capability {capability:.1f}, computed rules: {', '.join(words)}."


def gradients_to_markdown(found: dict[str, Any]) -> str:
    """Return the instructions of the kernels of gradients for 64 queries and 64 keys."""
    rows = {}
    for row in found["rows"]:
        if row["capability"] == SHOWN:
            rows.setdefault((row["head_dim"], row["kernel"]), {})[row["rule"]] = row
    table = [
        [
            str(head),
            GRADIENTS[kernel],
            " x ".join(map(str, mine["none"]["tile"])),
            str(mine["none"]["full"]),
            *(f"+ {mine[rule]['partial'] - mine[rule]['full']}" for rule in ("disk", "box", "band")),
            _span(row["registers"] for row in mine.values()),
            str(max(row["spilled_bytes"] for row in mine.values())),
        ]
        for (head, kernel), mine in rows.items()
    ]
    heads = ["head", "gradient of", "tile", "FULL", "disk", "window", "band", "registers", "spilled bytes"]
    return markdown(heads, table)


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return " to ".join(map(str, found[:: max(1, len(found) - 1)]))
