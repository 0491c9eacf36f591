"""Draw a story as one PNG: rows of pictures of one size, with a name for each row and words under each."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from PIL import Image, ImageDraw, ImageFont

from .grid import GAP, INK, LINE, PALE, wrap

SIDE = 160  # px of a picture; small ones are enlarged without smoothing
NAME = 90  # px of the column with the names of rows
MOST = 4  # lines under a picture
Row = tuple[str, Sequence[tuple[Image.Image, str]]]  # a name, and pictures with the words under them


def story_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw rows below each other, as many pictures in each as there are."""
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    first = rows[0][1][0][0]
    height = ceil(SIDE * first.height / first.width)
    said = [[wrap(ruler, text, small, SIDE, MOST) if text else [] for _, text in row] for _, row in rows]
    heights = [height + GAP + (LINE - 2) * max(map(len, lines)) for lines in said]
    width = NAME + max(len(row) for _, row in rows) * (SIDE + GAP) + GAP
    canvas = Image.new("RGB", (width, sum(heights) + GAP), "white")
    draw, top = ImageDraw.Draw(canvas), GAP
    for (name, row), lines, step in zip(rows, said, heights, strict=True):
        for i, line in enumerate(wrap(ruler, name, font, NAME - GAP, MOST)):
            draw.text((GAP, top + i * LINE), line, INK, font)
        for column, ((image, _), words) in enumerate(zip(row, lines, strict=True)):
            left = NAME + column * (SIDE + GAP)
            kind = Image.Resampling.NEAREST if image.width < SIDE else Image.Resampling.LANCZOS
            canvas.paste(image.convert("RGB").resize((SIDE, height), kind), (left, top))
            for i, line in enumerate(words):
                draw.text((left, top + height + 2 + i * (LINE - 2)), line, PALE, small)
        top += step
    return canvas
