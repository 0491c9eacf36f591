"""Show what a model gets wrong in one picture: the first failures of each task in an evaluation folder.

diffusers-ext eval --model shapes-sd3 --suite held-out --n 100 --out out/eval
python -m bench.studies.failures out/eval --out docs/failures.png
"""

from __future__ import annotations

import argparse
import json
import textwrap
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.report.plot import blank, encoded
from diffusers_ext.evaluate.store import FILE
from diffusers_ext.sampling.items import Item

PLAIN = "[]"  # the variant without methods
COLUMNS = 6


def failures(folder: Path, each: int = COLUMNS) -> dict[str, list[tuple[dict[str, Any], Path]]]:
    """Return by task the first `each` wrong pictures of the plain model on disk: verdict and file.

    Raises `FileNotFoundError` if the folder holds no evaluation.
    """
    if not (folder / FILE).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {FILE}; run 'diffusers-ext eval --out {folder}' first"
        )
    pictures, found = Pictures(folder), {}
    for line in (folder / FILE).read_text().splitlines()[1:]:
        verdict = json.loads(line)
        path = pictures.path(verdict["variant"], Item(verdict["prompt"], verdict["seed"]))
        if verdict["variant"] == PLAIN and verdict["correct"] is False and path.is_file():
            found.setdefault(verdict["task"], []).append((verdict, path))
    return {task: rows[:each] for task, rows in found.items()}


def draw(found: dict[str, list[tuple[dict[str, Any], Path]]], out: Path) -> None:
    """Draw a row of pictures per task; the prompt is above each, the verdict of the detector below."""
    figure = blank(2.0 * COLUMNS, 2.75 * len(found))
    axes = figure.subplots(len(found), COLUMNS, squeeze=False)
    for row, (task, rows) in zip(axes, found.items(), strict=True):
        for axis in row:
            axis.axis("off")
        row[0].text(
            -0.08, 0.5, task.replace("_", " "), fontsize=10, rotation=90,
            ha="right", va="center", transform=row[0].transAxes,
        )  # fmt: skip
        for axis, (verdict, path) in zip(row, rows, strict=False):
            axis.imshow(Image.open(path), interpolation="bicubic")
            axis.set_title(textwrap.fill(verdict["prompt"], 26), fontsize=8)
            axis.text(
                0.5, -0.04, textwrap.fill(verdict["reason"], 30), fontsize=6.5, color="firebrick",
                ha="center", va="top", transform=axis.transAxes,
            )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    page = Image.open(BytesIO(encoded(figure, dpi=90))).convert("RGB")
    # A palette takes a third of the bytes. Median cut, the default, would lose yellow beside that much grey.
    some = page.resize((page.width // 4, page.height // 4), Image.Resampling.NEAREST)
    palette = some.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
    page.quantize(palette=palette).save(out, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the --out folder of an eval")
    parser.add_argument("--out", type=Path, default=Path("docs/failures.png"), help="picture to write")
    args = parser.parse_args(arguments)
    try:
        found = failures(args.folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    if not found:
        parser.error(f"there is no wrong picture in {str(args.folder)!r}; ask for more prompts")
    draw(found, args.out)
    print(f"wrote {args.out}: {', '.join(f'{len(rows)} {task}' for task, rows in found.items())}")


if __name__ == "__main__":
    main()
