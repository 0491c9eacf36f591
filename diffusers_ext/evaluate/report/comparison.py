"""Write a comparison as one HTML file that needs no other, with the pictures inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from ..cells import Cell
from ..compare import Comparison, differences
from ..words import enough, percent, reward
from .page import Figure, data_url, figure, render


def html(
    comparison: Comparison,
    results: Mapping[str, Any],
    title: str,
    remarks: Sequence[str] = (),
    chart: bytes | None = None,
) -> str:
    """Render the page; `results` is `comparison.to_dict()` with all else that `results.json` holds.

    `chart` is a PNG that comes first. What columns cost, and their rewards, are shown where they are known.
    """
    methods, paired = results["methods"], [f for f in results["paired"].values() if f["overall"]]
    tasks = list(dict.fromkeys(t for facts in methods.values() for t in facts["tasks"]))
    test = "Same prompts and seeds; a win is right where the other is wrong."
    if any(enough(facts["overall"]) for facts in paired):
        test += " p is McNemar's exact test."
    settings = {label: facts["methods"] for label, facts in methods.items()}
    return render(
        "comparison.html",
        title,
        notes=remarks,
        intervals=any(f["overall"] and enough(f["overall"]) for f in methods.values()),
        heads=[t.replace("_", " ") for t in ["overall", *tasks]],
        accuracies=[
            (label, [_share(e) for e in (facts["overall"], *map(facts["tasks"].get, tasks))], _paid(facts))
            for label, facts in methods.items()
        ],
        paid=["evaluations", "mean reward"] * any("cost" in f for f in methods.values()) + ["s an image"],
        chart="" if chart is None else data_url(chart),
        pairs=differences(results),
        test=test,
        labels=[v.label for v in comparison.variants],
        pictures=[
            (item, [_figure(row[r]) for row in comparison.cells]) for r, item in enumerate(comparison.items)
        ],
        settings=json.dumps({"call": results.get("call"), "variants": settings}, indent=1),
        versions=json.dumps(results.get("versions", {})),
    )


def _share(entry: Mapping[str, Any] | None) -> list[str]:
    """Return the lines of a cell: the share, and its interval if there is one."""
    if not entry:
        return ["no ground truth"]
    if not enough(entry):
        return [percent(entry)]
    share, interval = percent(entry).split(" (")
    return [f"{share} of {entry['n']}", f"({interval}"]


def _paid(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells on cost, and on the reward that it bought, each as lines."""
    pace = "" if facts["seconds_per_image"] is None else f"{facts['seconds_per_image']:.2f}"
    if "cost" not in facts:
        return [[pace]]
    return [[f"{facts['cost']['mean']:.0f}"], reward(facts["reward"]).split(" ", 1), [pace]]


def _figure(cell: Cell) -> Figure:
    if cell.image is None:
        return Figure(cell.judged.reason)
    buffer = BytesIO()
    cell.image.save(buffer, format="PNG")
    return figure(cell.judged, cell.label, buffer.getvalue())
