"""The chart of `bench.quality`: likeness to the dense pictures and accuracy over density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers_ext.evaluate.plot import COLOURS, MARKERS, blank, points, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ran(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of settings that the model took, from sparse to dense."""
    return sorted((r for r in found["rows"] if "refused" not in r), key=lambda r: r["average_density"])


def chart(found: Mapping[str, Any]) -> Figure:
    """Two panels; filled marks are sparse from the first step on, hollow ones after a dense warm-up."""
    figure = blank(11, 4.4)
    left, right = figure.subplots(1, 2)
    rows = ran(found)
    for place, name in enumerate(dict.fromkeys(r["method"] for r in found["rows"])):
        for warm in sorted({r["settings"]["dense_steps"] for r in rows}):
            mine = [r for r in rows if (r["method"], r["settings"]["dense_steps"]) == (name, warm)]
            label = f"{name}, {warm:.0%} of the steps dense" if warm else name
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
    right.axhline(dense, color="#999999", linewidth=0.8, label=f"dense, {dense:.0f} %")
    left.set(ylabel="PSNR to the dense pictures, dB")
    right.set(ylabel="right pictures, %", ylim=(-3, 103))
    for axes in (left, right):
        axes.set(xlabel="share of the pairs of tokens that meet, mean over the steps", xlim=(0, 1.03))
        axes.legend(frameon=False, fontsize=8, loc="lower right" if axes is right else "upper left")
        tidy(axes)
    grid = " x ".join(str(n) for n in found["grid"] if n > 1)
    figure.suptitle(
        f"{found['model']}, {grid} tokens, {found['n']} {found['suite']} prompts a task", fontsize=11
    )
    figure.supxlabel("bars are 95 % intervals", fontsize=8, color="#666666")
    return figure
