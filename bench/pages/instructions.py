"""Show what `bench.compiled` has counted, as a table."""

from __future__ import annotations

from typing import Any

from .markdown import markdown

TITLES = {"none": "none", "disk": "disk", "box": "window", "band": "band"}
FORMS = {
    "dense": "dense attention",
    "tables": "read",
    "computed": "computed",
    "runs": "computed, across frames",
}


def to_markdown(found: dict[str, Any]) -> str:
    """Return the instructions for 64 keys of each form of the kernel, for heads of 128 and 64."""
    rows = [
        [
            f"{row['capability']:.1f}",
            str(row["head_dim"]),
            TITLES[row["rule"]],
            FORMS[row["form"]],
            str(row["full"]),
            "" if row["form"] == "dense" else f"+ {row['partial'] - row['full']}",
            str(row["registers"]),
            str(row["programs"]),
        ]
        for row in found["rows"]
    ]
    heads = ["capability", "head", "rule", "coordinates", "FULL", "PARTIAL", "registers", "programs"]
    return markdown(heads, rows)
