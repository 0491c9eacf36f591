"""Draw the first held-out prompts of the study of negative prompts in one picture, with its settings.

python -m bench.studies.nag_picture bench/results/nag-shapes-sd-turbo.json --out docs/nag.png
"""

from __future__ import annotations

import argparse
import json
import textwrap
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from diffusers_ext.evaluate.report.plot import blank, encoded

from .nag import NAG, PLAIN, RIVAL, Ask, Drawer, asks

COLUMNS = 6


def draw(rows: dict[str, list[np.ndarray]], asked: list[Ask], out: Path) -> None:
    """Draw a row of pictures for each way; the prompt and the negative prompt are above each column."""
    figure = blank(1.9 * COLUMNS, 1.9 * len(rows) + 0.6)
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        row[0].text(
            -0.08, 0.5, name.replace(" guidance", "\nguidance").replace(" prompt", "\nprompt"), fontsize=9,
            rotation=90, ha="right", va="center", transform=row[0].transAxes,
        )  # fmt: skip
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, interpolation="bicubic")
            axis.axis("off")
    for axis, ask in zip(axes[0], asked, strict=True):
        axis.set_title(f"{textwrap.fill(ask.spec.caption, 26)}\nnot: {ask.named}", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    page = Image.open(BytesIO(encoded(figure, dpi=90))).convert("RGB")
    page.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the file that bench.studies.nag wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/nag.png"), help="picture to write")
    args = parser.parse_args()
    found = json.loads(args.results.read_text())
    drawer, asked = Drawer(found["model"], COLUMNS), asks("held-out", COLUMNS, found["seed"])
    settings = found["settings"]
    rows = {
        PLAIN: drawer.pictures(asked),
        RIVAL: drawer.rival(asked, lambda ask: ask.named, settings[RIVAL]["guidance_scale"]),
        NAG: drawer.under_nag(asked, lambda ask: ask.named, settings[NAG]),
    }
    draw(rows, asked, args.out)


if __name__ == "__main__":
    main()
