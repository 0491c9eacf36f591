"""Write the tables of the study of binding, for the pages of its methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusers_ext.evaluate.words import change, percent

from ..pages.markdown import markdown
from .binding import ASTAR, EXCITE, MEASURES, PLAIN, RETENTION, SEGREGATION, STRUCTURED, TUNING

# The methods of a paired interval, as `evaluate.statistics` names them.
WORDS = {
    "newcombe": "Newcombe's, which takes pictures of one prompt as independent",
    "bootstrap over prompts": "bootstrap over prompts",
}


def to_markdown(found: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return what the pictures of some methods show, their cost, and the differences from plain ones."""
    rows = []
    for label in labels:
        cost, shares = found["costs"][label], found["measures"][label]
        rows.append([label, *(percent(shares[m]) for m in MEASURES), f"{cost['evaluations']:.0f}"])
    lines = []
    for label in labels:
        if label != PLAIN:
            changes = found["changes"][label]
            each = ", ".join(f"{m} {change(changes[m])}" for m in MEASURES)
            lines.append(f"- {label} - {PLAIN}: {each} points")
    heads = ["", *MEASURES, "evaluations"]
    facts = made(found, [found["changes"][label][m] for label in labels if label != PLAIN for m in MEASURES])
    return "\n".join([markdown(heads, rows), "", *lines, "", by_task(found, labels), "", facts])


def by_task(found: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return the share of right pictures by task."""
    tasks = list(found["variants"][PLAIN]["tasks"])
    rows = [
        [f"`{t}`", *(f"{100 * found['variants'][label]['tasks'][t]['accuracy']:.0f} %" for label in labels)]
        for t in tasks
    ]
    return markdown(["right, by task", *labels], rows)


def made(found: Mapping[str, Any], changes: Iterable[Mapping[str, Any]]) -> str:
    """Return how many pictures the figures rest on, and how intervals of changes were made."""
    n = found["n"] * len(found["variants"][PLAIN]["tasks"])
    return f"{found['model']}, {n} {found['suite']} prompts, paired by noise. {intervals(changes)}"


def intervals(changes: Iterable[Mapping[str, Any]]) -> str:
    """Return by which method the intervals of paired differences were made."""
    kinds = {each["interval"]: None for each in changes}
    return f"Intervals of differences: {' or '.join(WORDS[kind] for kind in kinds)}."


def astar(found: Mapping[str, Any]) -> str:
    return to_markdown(found, [PLAIN, ASTAR, EXCITE])


def structured(found: Mapping[str, Any]) -> str:
    return to_markdown(found, [PLAIN, STRUCTURED])


def ablation(found: Mapping[str, Any]) -> str:
    """Return what each loss of A-STAR does alone."""
    rows, labels = [], (SEGREGATION, RETENTION, ASTAR)
    for label in (PLAIN, *labels):
        differs = change(found["changes"][label]["right"]) if label != PLAIN else ""
        shares = found["measures"][label]
        rows.append([label, percent(shares["objects"]), percent(shares["right"]), differs])
    facts = made(found, [found["changes"][label]["right"] for label in labels])
    return "\n".join([markdown(["", "objects", "right", "points from plain"], rows), "", facts])


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
            f"{n} prompts of {TUNING}, paired by noise. {intervals(found['tried_paired'].values())}",
        ]
    )
