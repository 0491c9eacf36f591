"""Write the tables of the study of binding, for the pages of its methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers_ext.evaluate.words import change, percent

from ..pages.markdown import markdown
from .binding import ASTAR, EXCITE, MEASURES, PLAIN, RETENTION, SEGREGATION, STRUCTURED, TUNING


def to_markdown(found: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return what the pictures of some methods show, their cost, and the differences from plain ones."""
    rows = []
    for label in labels:
        cost, shares = found["costs"][label], found["measures"][label]
        times = f"{cost['seconds_share']:.1f} times"
        rows.append([label, *(percent(shares[m]) for m in MEASURES), f"{cost['evaluations']:.0f}", times])
    lines = []
    for label in labels:
        if label != PLAIN:
            changes = found["changes"][label]
            each = ", ".join(f"{m} {change(changes[m])}" for m in MEASURES)
            lines.append(f"- {label} - {PLAIN}: {each} points")
    heads = ["", *MEASURES, "evaluations", "time"]
    return "\n".join([markdown(heads, rows), "", *lines, "", by_task(found, labels), "", made(found)])


def by_task(found: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return the share of right pictures by task."""
    tasks = list(found["variants"][PLAIN]["tasks"])
    rows = [
        [f"`{t}`", *(f"{100 * found['variants'][label]['tasks'][t]['accuracy']:.0f} %" for label in labels)]
        for t in tasks
    ]
    return markdown(["right, by task", *labels], rows)


def made(found: Mapping[str, Any]) -> str:
    """Return how many pictures the figures rest on."""
    n = found["n"] * len(found["variants"][PLAIN]["tasks"])
    return f"{found['model']}, {n} {found['suite']} prompts, paired by noise."


def astar(found: Mapping[str, Any]) -> str:
    return to_markdown(found, [PLAIN, ASTAR, EXCITE])


def structured(found: Mapping[str, Any]) -> str:
    return to_markdown(found, [PLAIN, STRUCTURED])


def ablation(found: Mapping[str, Any]) -> str:
    """Return what each loss of A-STAR does alone."""
    rows = []
    for label in (PLAIN, SEGREGATION, RETENTION, ASTAR):
        differs = change(found["changes"][label]["right"]) if label != PLAIN else ""
        shares = found["measures"][label]
        rows.append([label, percent(shares["objects"]), percent(shares["right"]), differs])
    return "\n".join([markdown(["", "objects", "right", "points from plain"], rows), "", made(found)])


def tuning(found: Mapping[str, Any]) -> str:
    """Return what each change of the default did on the tuning suite."""
    rows = []
    for label, facts in found["tried"].items():
        differs = change(found["tried_paired"][label]) if label != PLAIN else ""
        shares = [f"{100 * task['accuracy']:.0f} %" for task in facts["tasks"].values()]
        rows.append([label, *shares, f"{100 * facts['overall']['accuracy']:.0f} %", differs])
    tasks = [f"`{t}`" for t in found["tried"][PLAIN]["tasks"]]
    n = found["tuning_n"] * len(tasks)
    return "\n".join(
        [
            markdown(["A-STAR", *tasks, "all", "points from plain"], rows),
            "",
            f"{n} prompts of {TUNING}, paired by noise.",
        ]
    )
