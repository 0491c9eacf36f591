"""Draw a comparison as one PNG: a column per variant, a row per prompt and seed, verdicts under pictures."""

from __future__ import annotations

from itertools import accumulate
from math import ceil

from PIL import Image, ImageDraw, ImageFont

from ..cells import Cell
from ..compare import Comparison

SIDE = 192  # px of a picture in the grid; small ones are enlarged without smoothing
LABEL = 190  # px of the column with the prompts
GAP = 10
LINE = 16  # px
MOST = 4  # lines of a verdict, which take a little less
FAILED = "could not be made"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, PALE, GOOD, BAD = "#1a1a1a", "#6b6b6b", "#1b7f3b", "#b3261e"


def grid(comparison: Comparison) -> Image.Image:
    """Draw the comparison; a verdict has words as well as a colour, so that no reader depends on colour."""
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    columns = len(comparison.variants)
    first = next(cell.image for column in comparison.cells for cell in column if cell.image)
    height = ceil(SIDE * first.height / first.width)
    costs = comparison.costs()
    header, ruler = 2 * GAP + LINE * (1 + bool(costs)), ImageDraw.Draw(Image.new("L", (1, 1)))
    said = [[_verdict(ruler, cell, small) for cell in column] for column in comparison.cells]
    steps = [height + 2 * GAP + (LINE - 2) * max(map(len, row)) for row in zip(*said, strict=True)]
    tops = list(accumulate(steps, initial=header))
    canvas = Image.new("RGB", (LABEL + GAP + columns * (SIDE + GAP), tops[-1]), "white")
    draw = ImageDraw.Draw(canvas)
    for c, variant in enumerate(comparison.variants):
        x = LABEL + GAP + c * (SIDE + GAP)
        draw.text((x, GAP), wrap(draw, variant.label, font, SIDE, 1)[0], INK, font)
        if variant.label in costs:
            draw.text((x, GAP + LINE), cost_words(costs[variant.label]), PALE, small)
        for r, cell in enumerate(comparison.cells[c]):
            _cell(canvas, draw, cell, said[c][r], (x, tops[r]), (SIDE, height), small)
    for r, item in enumerate(comparison.items):
        y = tops[r]
        text = wrap(draw, item.prompt, font, LABEL - GAP, max(height // (LINE + 2) - 1, 1))
        for i, line in enumerate(text):
            draw.text((GAP, y + i * (LINE + 2)), line, INK, font)
        draw.text((GAP, y + len(text) * (LINE + 2)), f"seed {item.seed}", PALE, small)
    return canvas


def cost_words(cost: float) -> str:
    """Write what a picture cost."""
    return f"{cost:.0f} evaluation{'s' * (round(cost) != 1)}"


def _verdict(draw: ImageDraw.ImageDraw, cell: Cell, font: Font) -> list[str]:
    """Return the lines under a picture; there are none without a ground truth."""
    if cell.image is None:
        return wrap(draw, FAILED, font, SIDE, MOST)
    if cell.judged.correct is None:
        return []
    text = "right" if cell.judged.correct else f"wrong: {cell.judged.reason}"
    return wrap(draw, text, font, SIDE, MOST)


def _cell(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Cell,
    lines: list[str],
    corner: tuple[int, int],
    size: tuple[int, int],
    font: Font,
) -> None:
    x, y = corner
    if cell.image is not None:
        enlarge = cell.image.width < size[0]
        kind = Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS
        canvas.paste(cell.image.convert("RGB").resize(size, kind), corner)
    if not lines:
        return
    colour = GOOD if cell.judged.correct else BAD
    draw.rectangle((x - 2, y - 2, x + size[0] + 1, y + size[1] + 1), outline=colour, width=2)
    for i, line in enumerate(lines):
        draw.text((x, y + size[1] + 3 + i * (LINE - 2)), line, colour, font)


def wrap(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int, most: int) -> list[str]:
    """Break `text` into at most `most` lines of `width` px; longer text ends in three dots."""
    lines, words = [""], [p for w in text.split() for p in _pieces(draw, w, font, width)]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and draw.textlength(last + "...", font) > width:
        last = last[:-1]
    return [*lines[: most - 1], last + "..."]


def _pieces(draw: ImageDraw.ImageDraw, word: str, font: Font, width: int) -> list[str]:
    """Cut a word that is wider than a line into pieces."""
    word = word[:400]
    pieces, start = [], 0
    for end in range(1, len(word) + 1):
        if end - start > 1 and draw.textlength(word[start:end], font) > width:
            pieces.append(word[start : end - 1])
            start = end - 1
    return [*pieces, word[start:]]
