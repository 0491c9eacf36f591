"""The pictures behind the figures in one HTML file: wins and losses against plain, or failures by task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

from ..zoo.suites import TASKS
from .page import figure, notes, page
from .score import Judged

MOST = 24  # pictures or pairs of a task that are shown
CHOICE = f"Up to {MOST} of a task are shown, the first of the suite, whose order is random: nobody chose."


@dataclass(frozen=True)
class Column:
    """A variant: its verdicts in the order of the suite, and where the PNG of each is read."""

    label: str
    judged: Sequence[Judged]
    png: Callable[[Judged], bytes]


def gallery(title: str, ours: Column, plain: Column | None = None, remarks: Sequence[str] = ()) -> str:
    """The HTML page. With `plain`, pairs of which one is right; without, what `ours` got wrong."""
    if plain is None:
        wrong = [(j,) for j in ours.judged if j.correct is False]
        body = _section("Failures by task", wrong, (ours,), ours.judged)
    else:
        pairs = list(zip(plain.judged, ours.judged, strict=True))
        wins = [(a, b) for a, b in pairs if a.correct is False and b.correct]
        losses = [(a, b) for a, b in pairs if a.correct and b.correct is False]
        columns = plain, ours
        body = _section(
            f"Wins: {ours.label} is right where {plain.label} is wrong", wins, columns, ours.judged
        )
        body += _section(
            f"Losses: {ours.label} is wrong where {plain.label} is right", losses, columns, ours.judged
        )
    return page(title, notes([*remarks, CHOICE]) + body)


def _section(
    title: str,
    rows: Sequence[tuple[Judged, ...]],
    columns: tuple[Column, ...],
    asked: Sequence[Judged],
) -> str:
    """A heading and, task by task, how many of the pictures these are and the first of them."""
    parts = [f"<h2>{escape(title)}</h2>"]
    none = []
    for task in [t for t in TASKS if any(j.task == t for j in asked)]:
        own = [row for row in rows if row[0].task == task]
        if not own:
            none.append(task.replace("_", " "))
            continue
        head = f"{task.replace('_', ' ')}: {len(own)} of {sum(j.task == task for j in asked)}"
        if swapped := sum(row[-1].swapped for row in own):
            head += f", {swapped} with the colours swapped"
        items = "".join(_row(row, columns) for row in own[:MOST])
        parts.append(f'<h3>{escape(head)}</h3>\n<ul class="shelf">{items}</ul>')
    return "\n".join([*parts, notes([f"None in {', '.join(none)}."] if none else [])])


def _row(row: tuple[Judged, ...], columns: tuple[Column, ...]) -> str:
    figures = "".join(_figure(j, c, named=len(columns) > 1) for j, c in zip(row, columns, strict=True))
    asked = f"{escape(row[0].prompt)}<br><small>seed {row[0].seed}</small>"
    return f'<li><p>{asked}</p><div class="pair">{figures}</div></li>\n'


def _figure(judged: Judged, column: Column, named: bool) -> str:
    from PIL import Image

    png = column.png(judged)
    with Image.open(BytesIO(png)) as image:
        width = image.width
    return (f"<div><b>{escape(column.label)}</b>" if named else "<div>") + (
        figure(judged, column.label, png, width) + "</div>"
    )
