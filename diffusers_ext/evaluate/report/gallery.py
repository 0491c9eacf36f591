"""Show the pictures behind the figures in one HTML file: wins and losses, or failures by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...zoo.world.suites import TASKS
from ..cells import Column
from ..score import Judged
from .page import Figure, figure, render

MOST = 24  # pictures or pairs of a task that are shown
CHOICE = f"Up to {MOST} of a task are shown, the first of the suite, whose order is random: nobody chose."


def gallery(title: str, ours: Column, plain: Column | None = None, remarks: Sequence[str] = ()) -> str:
    """Render the page: with `plain`, pairs of which one is right; without, what `ours` got wrong."""
    if plain is None:
        wrong = [(j,) for j in ours.judged if j.correct is False]
        sections = [_section("Failures by task", wrong, (ours,))]
    else:
        pairs = list(zip(plain.judged, ours.judged, strict=True))
        wins = [(a, b) for a, b in pairs if a.correct is False and b.correct]
        losses = [(a, b) for a, b in pairs if a.correct and b.correct is False]
        columns = plain, ours
        sections = [
            _section(f"Wins: {ours.label} is right where {plain.label} is wrong", wins, columns),
            _section(f"Losses: {ours.label} is wrong where {plain.label} is right", losses, columns),
        ]
    return render("gallery.html", title, notes=[*remarks, CHOICE], sections=sections)


def _section(title: str, rows: Sequence[tuple[Judged, ...]], columns: tuple[Column, ...]) -> dict[str, Any]:
    """Return a heading, then for each task the number of such pictures and the first ones.

    Tasks without any are named at the end.
    """
    asked = columns[-1].judged
    shelves, none = [], []
    for task in [t for t in TASKS if any(j.task == t for j in asked)]:
        own = [row for row in rows if row[0].task == task]
        if not own:
            none.append(task.replace("_", " "))
            continue
        head = f"{task.replace('_', ' ')}: {len(own)} of {sum(j.task == task for j in asked)}"
        if swapped := sum(row[-1].swapped for row in own):
            head += f", {swapped} with the colours swapped"
        shelves.append({"title": head, "rows": [_row(row, columns) for row in own[:MOST]]})
    return {"title": title, "shelves": shelves, "none": none}


def _row(row: tuple[Judged, ...], columns: tuple[Column, ...]) -> tuple[Judged, list[tuple[str, Figure]]]:
    """Return a verdict, for its prompt and seed, and a figure for each column; one column needs no label."""
    labels = [c.label if len(columns) > 1 else "" for c in columns]
    return row[0], [
        (label, figure(j, c.label, c.png(j))) for label, j, c in zip(labels, row, columns, strict=True)
    ]
