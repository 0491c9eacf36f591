"""Draw and write the report of samplers: quality against evaluations for each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...outputs.files import write_json, write_text
from ..cells import Cell, Column, Variant
from ..compare import Comparison
from ..pareto import rows
from ..words import enough
from .comparison import html
from .plot import COLOURS, blank, encoded, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EACH = 6  # prompts of a task whose pictures the page shows
FILE = "pareto.html"


def write(
    folder: Path,
    found: Mapping[str, Any],
    variants: Sequence[Variant],
    columns: Sequence[Column],
    title: str,
    remarks: Sequence[str],
) -> list[Path]:
    """Write all files and return their paths.

    results.json is written last, so if it exists, the others do.
    """
    figure = chart(found, title)
    made = [folder / "table.md", *save(figure, folder / "pareto"), folder / FILE, folder / "results.json"]
    write_text(made[0], markdown(found, remarks))
    write_text(made[-2], page(found, variants, columns, title, remarks, encoded(figure)))
    write_json(made[-1], found)
    return made


def chart(found: Mapping[str, Any], title: str) -> Figure:
    """Draw the share of right pictures, and the mean reward, against evaluations on a log scale.

    Bars are 95 % intervals. A line joins the columns that none beats at their cost.
    """
    methods = found["methods"]
    known = all(facts["overall"] for facts in methods.values())
    figure = blank(10.5 if known else 6.5, 4.4)
    panels = list(figure.subplots(1, 2 if known else 1, squeeze=False)[0])
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    if known:
        entries = {label: facts["overall"] for label, facts in methods.items()}
        _panel(panels[0], methods, entries, "accuracy", 100, found["front"])
        panels[0].set_ylabel("right pictures, %")
    entries = {label: facts["reward"] for label, facts in methods.items()}
    _panel(panels[-1], methods, entries, "mean", 1, [] if known else found["front"])
    panels[-1].set_ylabel(f"mean reward, {found['reward_names']}")
    figure.supxlabel("evaluations of the denoiser for each picture; bars are 95 % intervals", fontsize=9)
    return figure


def _panel(
    axes: Axes,
    methods: Mapping[str, Any],
    entries: Mapping[str, Any],
    key: str,
    scale: float,
    front: Sequence[str],
) -> None:
    """Draw a point with its interval and its name for each column."""
    from matplotlib.ticker import FixedLocator, NullLocator

    cost = {label: facts["cost"]["mean"] for label, facts in methods.items()}
    least, most = min(cost.values()), max(cost.values())
    # Room on the right for the names of the last points.
    span = (most * max(1.7, (most / least) ** 0.5)) / (least / 1.25)
    groups = _groups(cost, span**0.07)
    x = _spread(cost, groups, span**0.014)
    y = {label: scale * entry[key] for label, entry in entries.items()}
    axes.set_xscale("log")
    if front:
        line = {"color": "#bbbbbb", "linewidth": 1.2, "zorder": 1}
        axes.plot([x[f] for f in front], [y[f] for f in front], **line)
    for i, (label, entry) in enumerate(entries.items()):
        bars = [[max(y[label] - scale * entry["low"], 0)], [max(scale * entry["high"] - y[label], 0)]]
        look = {"fmt": "o", "color": COLOURS[i % len(COLOURS)], "capsize": 2, "markersize": 6}
        axes.errorbar(x[label], y[label], yerr=bars if enough(entry) else None, **look)
    axes.margins(y=0.08)
    axes.set_xlim(least / 1.25, least / 1.25 * span)
    for group in groups:
        _labels(axes, group, x, y, list(entries), max(x[name] for name in group) * span**0.022)
    ticks = [sum(cost[name] for name in group) / len(group) for group in groups]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda place, _: f"{place:.0f}")
    tidy(axes)


def _groups(cost: Mapping[str, float], factor: float) -> list[list[str]]:
    """Return the columns in groups of about the same cost, cheapest first."""
    groups: list[list[str]] = []
    for label in sorted(cost, key=lambda name: cost[name]):
        if groups and cost[label] < factor * cost[groups[-1][0]]:
            groups[-1].append(label)
        else:
            groups.append([label])
    return groups


def _spread(cost: Mapping[str, float], groups: Sequence[Sequence[str]], factor: float) -> dict[str, float]:
    """Move points of about the same cost apart, so that their bars do not hide each other."""
    x = {}
    for group in groups:
        middle = sum(cost[name] for name in group) / len(group)
        for i, name in enumerate(group):
            x[name] = middle * factor ** (i - (len(group) - 1) / 2) if len(group) > 1 else cost[name]
    return x


def _labels(
    axes: Axes,
    group: Sequence[str],
    x: Mapping[str, float],
    y: Mapping[str, float],
    names: Sequence[str],
    left: float,
) -> None:
    """Write the names of a group of points to its right, below each other."""
    low, high = axes.get_ylim()
    gap = (high - low) / 18
    order = sorted(group, key=lambda name: (y[name], -x[name]))
    places = [y[name] for name in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    down = max((places[-1] - y[order[-1]]) / 2, places[-1] - high + gap / 2)
    down = min(down, places[0] - low - gap / 2)
    for name, place in zip(order, places, strict=True):
        axes.annotate(
            name,
            (x[name], y[name]),
            xytext=(left, place - down),
            textcoords="data",
            fontsize=9,
            va="center",
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            color=COLOURS[names.index(name) % len(COLOURS)],
            arrowprops={"arrowstyle": "-", "color": "#cccccc", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
        )


def markdown(found: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """Write the figures as a Markdown table, with the conditions of the measurement below."""
    heads, *body = rows(found)
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(cells)} |" for cells in body]
    return "\n".join([*lines, "", *remarks]) + "\n"


def page(
    found: Mapping[str, Any],
    variants: Sequence[Variant],
    columns: Sequence[Column],
    title: str,
    remarks: Sequence[str],
    png: bytes,
) -> str:
    """Render the page with the pictures of the first prompts of each task."""
    chosen, seen = [], dict.fromkeys((j.task for j in columns[0].judged), 0)
    for i, judged in enumerate(columns[0].judged):
        if seen[judged.task] < EACH:
            seen[judged.task] += 1
            chosen.append(i)
    cells = tuple(tuple(_cell(column, i) for i in chosen) for column in columns)
    items = tuple(cell.judged for cell in cells[0])
    shown = Comparison(tuple(variants), items, cells, (None,) * len(variants))
    note = f"The pictures are those of the first {EACH} prompts of each task: nobody chose."
    return html(shown, found, title, [*remarks, note], png)


def _cell(column: Column, place: int) -> Cell:
    judged = column.judged[place]
    with Image.open(BytesIO(column.png(judged))) as image:
        return Cell(column.label, image.convert("RGB"), judged)
