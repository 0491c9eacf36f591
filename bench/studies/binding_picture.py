"""Draw the first held-out prompts of three objects under methods that read cross-attention.

python -m bench.studies.binding_picture --out docs
"""

from __future__ import annotations

import argparse
import textwrap
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.evaluate.report.plot import blank, encoded
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.outputs.files import output_folder
from diffusers_ext.prompts.phrases import described_nouns, head_nouns

from .binding import ASTAR, EXCITE, MODEL, PLAIN, STRUCTURED, SUITE, compared
from .binding_maps import looking

COLUMNS = 6
SHEETS = {"astar.png": (PLAIN, ASTAR, EXCITE), "structured.png": (PLAIN, STRUCTURED)}


def pictures(pipe: Any, asked: list[Question], methods: tuple[Any, ...]) -> list[np.ndarray]:
    """Return the pictures [64, 64, 3] of the suite under methods."""
    noise = [torch.Generator().manual_seed(q.item.seed) for q in asked]
    with dx.apply(pipe, *methods) if methods else nullcontext():
        made = pipe([q.item.prompt for q in asked], generator=noise, output_type="np").images
    return list(made)


def sheet(rows: dict[str, list[np.ndarray]], titles: list[str], out: Path) -> None:
    """Draw a row of pictures for each method; the prompt is above each column."""
    columns = len(titles)
    figure = blank(1.9 * columns, 1.9 * len(rows) + 0.5)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, made) in zip(axes, rows.items(), strict=True):
        row[0].text(
            -0.08, 0.5, name.replace("-and-", "\nand "), fontsize=9, rotation=90, ha="right", va="center",
            transform=row[0].transAxes,
        )  # fmt: skip
        for axis, picture in zip(row, made, strict=True):
            axis.imshow(picture, interpolation="bicubic" if picture.ndim == 3 else "nearest")
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(textwrap.fill(title, 26), fontsize=8)
    page = Image.open(BytesIO(encoded(figure, dpi=90))).convert("RGB")
    page.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1).save(out, optimize=True)


def maps(pipe: Any, question: Question, step: int = 8) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """Return a picture and the maps of its words at a step, for each size of maps, with their titles."""
    prompt = question.item.prompt
    rows: dict[str, list[np.ndarray]] = {}
    for halvings in (0, 1):
        each, titles = [], [prompt]
        for adjectives, found in ((False, head_nouns), (True, described_nouns)):
            notes: list[list[Any]] = []
            method = looking(notes, halvings=halvings, adjectives=adjectives)
            (picture,) = pictures(pipe, [question], (method,))
            seen = notes[step - 1][0]
            each += [plane.numpy() for plane in seen]
            titles += [prompt[slice(*place)] for place in found(prompt)]
        rows[f"{seen.shape[-2]} x {seen.shape[-1]}"] = [picture, *each]
    return rows, titles


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures")
    args = parser.parse_args()
    folder, pipe, methods = output_folder(args.out), dx.load(MODEL), compared()
    pipe.set_progress_bar_config(disable=True)
    asked = questions(SUITE, COLUMNS, 0, ("three_object",))
    for name, labels in SHEETS.items():
        rows = {label: pictures(pipe, asked, methods[label]) for label in labels}
        sheet(rows, [q.item.prompt for q in asked], folder / name)
    sheet(*maps(pipe, asked[0]), folder / "astar-maps.png")


if __name__ == "__main__":
    main()
