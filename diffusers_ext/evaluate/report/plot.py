"""Draw charts as PNG and SVG: accuracies by task with their intervals, and the change of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...outputs.files import write_bytes
from ..words import enough

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4c566a", "#c2571a", "#1f6f8b", "#6a8f2f")  # distinct in print and by most colour-blind readers
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
MARKERS = ("o", "s", "^", "D")


def accuracies(found: Mapping[str, Any], label: str) -> Figure:
    """Draw a `results.json`: a point and a 95 % interval per task; with pairs, the differences below."""
    figure, paired = blank(7.5, 3.6 if "paired" not in found else 6.2), found.get("paired")
    upper = figure.subplots(2 if paired else 1, 1, squeeze=False, sharex=True)[:, 0]
    tasks = [*found["tasks"], "overall"]
    variants = {"plain": found["plain"], label: found} if paired else {label: found}
    for place, (name, facts) in enumerate(variants.items()):
        shift = (place - (len(variants) - 1) / 2) * 0.18
        entries = [facts["tasks"].get(t, facts["overall"]) for t in tasks]
        points(upper[0], [i + shift for i in range(len(tasks))], entries, "accuracy", name, place)
    upper[0].set(ylim=(-3, 103), ylabel="right pictures, %")
    upper[0].set_title(
        f"{found['model']}, {found['suite']} prompts, {found['n']} a task", fontsize=11, loc="left"
    )
    if paired:
        entries = [paired["tasks"].get(t, paired["overall"]) for t in tasks]
        upper[1].axhline(0, color="#999999", linewidth=0.8)
        points(upper[1], range(len(tasks)), entries, "difference", f"{label} minus plain", 1)
        upper[1].set(ylabel=f"{label} minus plain, points")
        upper[0].legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    for axes in upper:
        tidy(axes)
    upper[-1].set_xticks(range(len(tasks)), [t.replace("_", "\n") for t in tasks])
    upper[-1].tick_params(axis="x", length=0)
    figure.supxlabel("bars are 95 % intervals", fontsize=8, color="#666666")
    return figure


def points(
    axes: Axes, x: Sequence[float], entries: Sequence[Mapping[str, Any]], key: str, label: str, place: int
) -> None:
    """Add points in percent at `entries[i][key]` with bars from `low` to `high`; `place` picks the look."""
    y = [100 * e[key] for e in entries]
    # A percentile interval may not contain the point; matplotlib refuses bars of negative length.
    # Fewer than ten pictures get no bar: it would be as long as the axis.
    below = [max(v - 100 * e["low"], 0) * enough(e) for v, e in zip(y, entries, strict=True)]
    above = [max(100 * e["high"] - v, 0) * enough(e) for v, e in zip(y, entries, strict=True)]
    look = {"fmt": MARKERS[place % len(MARKERS)], "color": COLOURS[place % len(COLOURS)], "capsize": 3}
    axes.errorbar(x, y, yerr=[below, above], label=label, **look)


def blank(width: float, height: float) -> Figure:
    """Make an empty figure, sizes in inches, that needs no display and belongs to no global list."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """Give axes the look that all charts share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path` with the endings .png and .svg; the same figure gives the same bytes."""
    made = []
    for kind in METADATA:
        made.append(path.with_name(f"{path.name}.{kind}"))
        write_bytes(made[-1], encoded(figure, kind))
    return made


def encoded(figure: Figure, kind: str = "png", dpi: int = 150) -> bytes:
    """Return the bytes of a file of the figure."""
    import matplotlib

    buffer = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "diffusers_ext", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=METADATA[kind], facecolor="white")
    return buffer.getvalue()
