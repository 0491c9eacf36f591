"""Draw the picture at the top of README: what one token attends to, and the time that this takes.

Times come from the run of `bench.timing.growth` on a CPU.

    python -m bench.pages.growth_chart
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffusers_ext.evaluate.report.plot import COLOURS, MARKERS, blank, encoded, tidy
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.outputs.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from diffusers_ext.kernels.masks.rule import Rule

ROOT = Path(__file__).parents[2]
RUN = ROOT / "bench" / "results" / "growth-cpu-x86_64.json"
OUT = ROOT / "docs" / "attention.png"
SIDE = 128  # tokens of an axis: the longest sequence of the run, as a square
QUERY = (76, 50)  # row and column of the token that is shown
SHOWN: Mapping[str, tuple[str, str, Rule]] = {  # method -> what it keeps, its name in the run, its rule
    "CLEAR": ("a disk", "clear r=8", Disk(8)),
    "GNA": ("a window", "gna 17x17", Window((1, SIDE, SIDE), (1, 17, 17))),
}
BACKEND = "reference"  # what runs on a CPU unless a plan is compiled
DPI = 110


def seen(rule: Rule | None) -> np.ndarray:
    """Return the tokens [SIDE, SIDE] that the query attends to by a rule; without a rule, all of them."""
    if rule is None:
        return torch.ones(SIDE, SIDE, dtype=torch.bool).numpy()
    h, w = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    key = torch.stack(rule.axes(torch.zeros_like(h), h, w), -1)
    query = torch.stack(rule.axes(*(torch.tensor(x) for x in (0, *QUERY))), -1).expand_as(key)
    return rule.touch(query, query, key, key)[0].numpy()


def times(rows: Sequence[Mapping[str, Any]], method: str) -> tuple[list[int], list[float], list[float]]:
    """Return tokens, and seconds of the method and of dense attention in the same run."""
    mine = [r for r in rows if (r["method"], r["backend"]) == (method, BACKEND)]
    return [r["tokens"] for r in mine], [r["ms"] / 1000 for r in mine], [r["dense_ms"] / 1000 for r in mine]


def chart(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw three grids with what one token attends to, and time over tokens."""
    figure = blank(11, 3.3)
    *grids, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.7))
    kept = {f"{name}: {shape}": rule for name, (shape, _, rule) in SHOWN.items()}
    panels = {"Dense attention: all tokens": None, **kept}
    for place, (axes, (title, rule)) in enumerate(zip(grids, panels.items(), strict=True)):
        _grid(axes, title, seen(rule), COLOURS[place])
    for place, (name, (_, method, _)) in enumerate(SHOWN.items(), start=1):
        tokens, sparse, dense = times(rows, method)
        if place == 1:
            right.loglog(tokens, dense, color=COLOURS[0], marker=MARKERS[0])
            right.annotate("Dense", (tokens[-1], dense[-1]), (6, -3), textcoords="offset points")
        right.loglog(tokens, sparse, color=COLOURS[place], marker=MARKERS[place])
        faster = f"{name}, {dense[-1] / sparse[-1]:.1f}x faster"
        right.annotate(faster, (tokens[-1], sparse[-1]), (6, -3), textcoords="offset points")
    right.set_xticks(tokens, [f"{n:,}" if n != 9216 else "" for n in tokens], fontsize=8)  # no room
    right.minorticks_off()
    right.set(xlim=(tokens[0] * 0.85, tokens[-1] * 7), xlabel="tokens of a picture", ylabel="seconds")
    right.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    right.set_title("Attention (2 heads of 64) on one CPU core", fontsize=10)
    tidy(right)
    return figure


def _grid(axes: Axes, title: str, mask: np.ndarray, colour: str) -> None:
    from matplotlib.colors import ListedColormap

    axes.imshow(mask, cmap=ListedColormap(["#eceff4", colour]), vmin=0, vmax=1, interpolation="nearest")
    axes.plot(QUERY[1], QUERY[0], marker="o", ms=5, color="white", mec="black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#cccccc")
    share = f"{100 * mask.mean():.0f} %" if mask.all() else f"{100 * mask.mean():.1f} %"
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"sees {share} of the tokens", fontsize=9)


def main() -> None:
    write_bytes(OUT, encoded(chart(json.loads(RUN.read_text())["rows"]), dpi=DPI))
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
