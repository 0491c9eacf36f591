"""Draw one prompt a column with each perturbation of SoftPAG, from the same noise, in one picture.

python -m bench.studies.perturbations_picture --out docs/softpag.png
"""

from __future__ import annotations

import textwrap
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.evaluate.report.plot import blank, encoded
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.models.checkpoint import Checkpoint

from ..runner import suite_parser
from .perturbations import MODEL, SUITE, TASKS, WAYS, variants

WAY = "without classifier-free guidance"


def pictures(asked: list[Question]) -> dict[str, list[np.ndarray]]:
    """Draw the questions with each variant: label -> pictures `[H, W, 3]` from 0 to 1."""
    checkpoint, (call, scale) = Checkpoint.resolve(MODEL), WAYS[WAY]
    pipe, made = checkpoint.load(), {}
    pipe.set_progress_bar_config(disable=True)
    for label, methods in variants(scale).items():
        generators = [torch.Generator().manual_seed(q.item.seed) for q in asked]
        with dx.apply(pipe, *methods):
            made[label] = list(
                pipe(
                    [q.item.prompt for q in asked],
                    generator=generators,
                    output_type="np",
                    **{**checkpoint.call, **call},
                ).images
            )
    return made


def draw(rows: dict[str, list[np.ndarray]], asked: list[Question], out: Path) -> None:
    """Draw a row of pictures for each variant; the prompt is above each column."""
    figure = blank(1.3 * len(asked) + 0.4, 1.3 * len(rows) + 0.5)
    axes = figure.subplots(len(rows), len(asked), squeeze=False)
    for row, (name, made) in zip(axes, rows.items(), strict=True):
        row[0].text(
            -0.08, 0.5, name.replace("_", " "), fontsize=8, rotation=90, ha="right", va="center",
            transform=row[0].transAxes,
        )  # fmt: skip
        for axis, picture in zip(row, made, strict=True):
            axis.imshow(picture, interpolation="bicubic")
            axis.axis("off")
    for axis, question in zip(axes[0], asked, strict=True):
        axis.set_title(textwrap.fill(question.item.prompt, 22), fontsize=6)
    out.parent.mkdir(parents=True, exist_ok=True)
    page = Image.open(BytesIO(encoded(figure, dpi=80))).convert("RGB")
    page.quantize(128, Image.Quantize.MAXCOVERAGE, kmeans=1).save(out, optimize=True)


def main() -> None:
    parser = suite_parser(__doc__, n=2, batch=6)
    parser.set_defaults(out=Path("docs/softpag.png"))
    args = parser.parse_args()
    asked = questions(SUITE, args.n, args.seed, TASKS)
    draw(pictures(asked), asked, args.out)


if __name__ == "__main__":
    main()
