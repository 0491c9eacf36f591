"""Draw the charts of `bench.studies.headroom`: choosing among seeds, guidance scales and step counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffusers_ext.evaluate.report.plot import COLOURS, MARKERS, blank, points, tidy
from diffusers_ext.evaluate.words import percent

from ..ledger import RESULTS
from ..pages.markdown import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def chart(found: Mapping[str, Any]) -> Figure:
    """Draw four panels: choosing among seeds overall and by task, guidance scales, step counts."""
    figure = blank(12, 7.5)
    (left, right), (lower, last) = figure.subplots(2, 2)
    _choosing(left, found["best_of"])
    _tasks(right, found["best_of"])
    _sweep(lower, found["guidance"], "guidance scale (1 is off)")
    _sweep(last, found["steps"], "denoising steps")
    last.set_xscale("log", base=2)
    last.set_xticks([row["value"] for row in found["steps"]], [str(row["value"]) for row in found["steps"]])
    last.minorticks_off()
    last.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in (left, right, lower, last):
        axes.set(ylim=(-3, 103), ylabel="right pictures, %")
        tidy(axes)
    figure.suptitle(f"{found['model']}: head-room on {found['n']} tuning prompts a task", fontsize=12)
    figure.supxlabel("bars are 95 % intervals", fontsize=8, color="#666666")
    return figure


def choosers(best: Mapping[str, Any]) -> list[str]:
    """Return who chose among the seeds."""
    return ["oracle", *(name for name in best if name not in ("counts", "oracle"))]


def _choosing(axes: Axes, best: Mapping[str, Any]) -> None:
    for place, name in enumerate(choosers(best)):
        entries = [e["overall"] for e in best[name]]
        axes.plot(best["counts"], [100 * e["accuracy"] for e in entries], color=COLOURS[place])
        points(axes, best["counts"], entries, "accuracy", f"by {name}", place)
    axes.set_title("all tasks", loc="left", fontsize=10)
    axes.set(xlabel="seeds to choose from", xscale="log")
    axes.set_xticks(best["counts"], [str(k) for k in best["counts"]])
    axes.minorticks_off()
    _legend_above(axes)


def _tasks(axes: Axes, best: Mapping[str, Any]) -> None:
    tasks, names = list(best["oracle"][0]["tasks"]), choosers(best)
    series = [("one seed", best["oracle"][0])]
    series += [(f"{best['counts'][-1]} seeds, {name}", best[name][-1]) for name in names]
    order = [2, *range(len(names))]  # each chooser keeps its look from the panel beside
    for place, (label, facts) in enumerate(series):
        shift = (place - (len(series) - 1) / 2) * 0.2
        entries = [facts["tasks"][t] for t in tasks]
        points(axes, [i + shift for i in range(len(tasks))], entries, "accuracy", label, order[place])
    axes.set_xticks(range(len(tasks)), [t.replace("_", "\n") for t in tasks])
    axes.set_title("by task", loc="left", fontsize=10)
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))


def _sweep(axes: Axes, rows: Sequence[Mapping[str, Any]], label: str) -> None:
    values = [row["value"] for row in rows]
    for place, task in enumerate(rows[0]["tasks"]):
        y = [100 * row["tasks"][task]["accuracy"] for row in rows]
        look = dict(color=f"C{place}", marker=MARKERS[place % len(MARKERS)], markersize=3)
        axes.plot(values, y, linewidth=0.9, alpha=0.8, label=task.replace("_", " "), **look)
    axes.plot(values, [100 * row["overall"]["accuracy"] for row in rows], color="black")
    points(axes, values, [row["overall"] for row in rows], "accuracy", "overall", 0)
    axes.set_xlabel(label)


def to_markdown() -> str:
    """Return what choosing among seeds gains, a line for each model and chooser, from the committed runs."""
    found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("headroom-*.json"))]
    rows = []
    for one in found:
        best = one["best_of"]
        start, most = best["oracle"][0]["overall"], best["counts"][-1]
        for chooser in choosers(best):
            who = "the detector" if chooser == "oracle" else chooser
            ends = [percent(e) for e in (start, best[chooser][-1]["overall"])]
            rows.append([one["model"], str(start["n"]), who, ends[0], f"{ends[1]} of {most}"])
    return markdown(["model", "prompts", "chosen by", "one seed", "best seed"], rows)
