"""Draw chart and table of `bench.studies.quality`: similarity to dense pictures, accuracy over density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers_ext.evaluate.report.plot import COLOURS, MARKERS, blank, points, tidy
from diffusers_ext.evaluate.words import change

from ..pages.markdown import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ran(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of settings that the model took, from sparse to dense."""
    return sorted((r for r in found["rows"] if "refused" not in r), key=lambda r: r["average_density"])


def chart(found: Mapping[str, Any]) -> Figure:
    """Draw two panels; filled marks are sparse from the first step on, hollow ones after a dense warm-up."""
    figure = blank(11, 4.8)
    left, right = figure.subplots(1, 2)
    rows = ran(found)
    for place, name in enumerate(dict.fromkeys(r["method"] for r in found["rows"])):
        for warm in sorted({r["settings"]["dense_steps"] for r in rows}):
            mine = [r for r in rows if (r["method"], r["settings"]["dense_steps"]) == (name, warm)]
            label = f"{name}, after {100 * warm:.0f} % dense steps" if warm else name
            fill = "white" if warm else COLOURS[place]
            look = {"color": COLOURS[place], "marker": MARKERS[place], "mfc": fill, "label": label}
            seen = [r for r in mine if r["psnr_db"] is not None]
            left.plot([r["average_density"] for r in seen], [r["psnr_db"] for r in seen], ls=":", **look)
            x, y = [r["average_density"] for r in mine], [r["overall"] for r in mine]
            if warm:  # without bars, which would hide each other
                right.plot(x, [100 * e["accuracy"] for e in y], ls="", **look)
            else:
                points(right, x, y, "accuracy", name, place)
    dense = 100 * found["dense"]["overall"]["accuracy"]
    line = right.axhline(dense, color="#999999", linewidth=0.8, label=f"dense, {dense:.0f} %")
    figure.legend(
        handles=[*left.lines, line], loc="outside lower center", ncols=4, frameon=False, fontsize=8,
        title="bars are 95 % intervals", title_fontsize=8,
    )  # fmt: skip
    left.set(ylabel="PSNR to the dense pictures, dB")
    right.set(ylabel="right pictures, %", ylim=(-3, 103))
    for axes in (left, right):
        axes.set(xlabel="share of the pairs of tokens that meet, mean over the steps", xlim=(0, 1.03))
        tidy(axes)
    grid = " x ".join(str(n) for n in found["grid"] if n > 1)
    figure.suptitle(
        f"{found['model']}, {grid} tokens, {found['n']} {found['suite']} prompts a task", fontsize=11
    )
    return figure


SETTINGS = {
    "clear": ("radius",),
    "gna": ("window",),
    "radial": ("mode", "sink_frames"),
    "rectified": ("keep",),
}
HEADS = ["method", "density", "PSNR, dB", "SSIM", "right", "against dense"]
AFTER = ["after a dense fifth: PSNR", "right"]


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return a row for each method and setting, from sparse to dense; last, what a dense warm-up changes."""
    rows = ran(found)
    warm = {_setting(r): r for r in rows if r["settings"]["dense_steps"]}
    lines = []
    for row in (r for r in rows if not r["settings"]["dense_steps"]):
        pair, after = row["paired"], warm[_setting(row)]
        figures = [f"{row['density']:.2f}", _decibels(row), f"{row['ssim']:.2f}", _right(row), change(pair)]
        lines.append([_setting(row), *figures, _decibels(after), _right(after)])
    dense = found["dense"]["overall"]
    said = f"Dense: {100 * dense['accuracy']:.0f} % of {dense['n']} pictures are right."
    refused = {f"Not taken: {_setting(r)} ({r['refused']})" for r in found["rows"] if "refused" in r}
    return "\n\n".join([said, markdown(HEADS + AFTER, lines), *sorted(refused)])


def _setting(row: Mapping[str, Any]) -> str:
    values = {name: row["settings"][name] for name in SETTINGS[row["method"]]}
    values = {n: "x".join(map(str, v)) if isinstance(v, list | tuple) else v for n, v in values.items()}
    return ", ".join(
        [row["method"], *(f"{name.replace('_', ' ')} {value}" for name, value in values.items())]
    )


def _right(row: Mapping[str, Any]) -> str:
    return f"{100 * row['overall']['accuracy']:.0f} %"


def _decibels(row: Mapping[str, Any]) -> str:
    return "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
