"""Draw a comparison as one wide PNG: a row per variant, a column per prompt and seed."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from ..cells import Cell
from ..compare import Comparison
from .grid import BAD, FAILED, GOOD, INK, PALE, Font, cost_words, wrap

# The page shows such a picture at about half its size, so letters are large.
SIDE, FRAME = 128, 5  # px of a picture, and of the frame around it
PITCH = 158  # px from one column to the next
LABEL = 236  # px of the column with the variants
LINE = 25
MARGIN = 14
MOST = 6  # lines of a prompt


def wide_grid(comparison: Comparison) -> Image.Image:
    """Draw the comparison; a verdict is a word as well as a colour, so that no reader depends on colour."""
    font, small = ImageFont.load_default(22), ImageFont.load_default(19)
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    first = next(cell.image for row in comparison.cells for cell in row if cell.image)
    height = round(SIDE * first.height / first.width)
    step = height + 2 * FRAME + LINE + MARGIN
    prompts = [wrap(ruler, item.prompt, small, PITCH - 14, MOST) for item in comparison.items]
    top = MARGIN + LINE * max(map(len, prompts)) + 4
    size = LABEL + PITCH * len(prompts) + MARGIN, top + step * len(comparison.variants)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for c, lines in enumerate(prompts):
        _text(draw, lines, (LABEL + c * PITCH, top - 4 - LINE * len(lines)), INK, small)
    costs = comparison.costs()
    for r, (variant, row) in enumerate(zip(comparison.variants, comparison.cells, strict=True)):
        y = top + r * step
        draw.text((MARGIN, y + 6), wrap(draw, variant.label, font, LABEL - MARGIN, 1)[0], INK, font)
        _text(draw, _facts(row, costs.get(variant.label)), (MARGIN, y + 6 + LINE + 6), PALE, small)
        for c, cell in enumerate(row):
            _cell(canvas, draw, cell, (LABEL + c * PITCH, y), height, small)
    return canvas


def _facts(row: tuple[Cell, ...], cost: float | None) -> list[str]:
    """Return the lines under the name of a variant: its cost, and how many pictures are right."""
    known = [
        cell.judged.correct for cell in row if cell.image is not None and cell.judged.correct is not None
    ]
    lines = [] if cost is None else [cost_words(cost), "a picture"]
    return [*lines, f"{sum(known)} of {len(known)} right"] if known else lines


def _cell(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Cell,
    corner: tuple[int, int],
    height: int,
    font: Font,
) -> None:
    x, y = corner
    if cell.image is None:
        _text(draw, wrap(draw, FAILED, font, SIDE, 3), (x, y + height // 3), PALE, font)
        return
    size = SIDE, height
    kind = Image.Resampling.NEAREST if cell.image.width <= SIDE else Image.Resampling.LANCZOS
    if cell.judged.correct is not None:
        colour = GOOD if cell.judged.correct else BAD
        draw.rectangle((x, y, x + SIDE + 2 * FRAME - 1, y + height + 2 * FRAME - 1), fill=colour)
        word = "right" if cell.judged.correct else "wrong"
        draw.text((x, y + height + 2 * FRAME + 2), word, colour, font)
    canvas.paste(cell.image.convert("RGB").resize(size, kind), (x + FRAME, y + FRAME))


def _text(draw: ImageDraw.ImageDraw, lines: list[str], corner: tuple[int, int], ink: str, font: Font) -> None:
    for i, line in enumerate(lines):
        draw.text((corner[0], corner[1] + i * LINE), line, ink, font)
