"""Draw the scores of attention heads as one PNG: a row for each module, a square for each head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from PIL import Image, ImageDraw, ImageFont

from .grid import GAP, INK, LINE, PALE, wrap

CELL = 24  # px of a head
EDGE = 2  # px of the frame of a chosen head
WORSE, LEVEL, BETTER = (194, 87, 26), (247, 247, 247), (31, 111, 139)  # distinct to colour-blind readers
NONE = (220, 220, 220)  # a head without a score


def head_map(
    scores: Mapping[str, Sequence[float | None]],
    chosen: Sequence[tuple[str, int]],
    plain: float | None,
    title: Sequence[str],
) -> Image.Image:
    """Draw the score of every head; chosen ones are framed and numbered in the order of `chosen`.

    Colours compare with the score of `plain` pictures, or with the middle of the scores where that is not
    known. A head without a score is grey and crossed out.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    label = GAP + int(max(ruler.textlength(name, small) for name in scores))
    most = max(len(row) for row in scores.values())
    width = max(label + 2 * GAP + most * CELL, 420)
    lines = [
        (line, font if i == 0 else small)
        for i, text in enumerate(title)
        for line in wrap(ruler, text, font if i == 0 else small, width - 2 * GAP, 3)
    ]
    top = 2 * GAP + LINE * (len(lines) + 1)
    canvas = Image.new("RGB", (width, top + len(scores) * CELL + 2 * GAP + 2 * LINE), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (line, one) in enumerate(lines):
        draw.text((GAP, GAP + i * LINE), line, INK if i == 0 else PALE, one)
    middle, reach = _scale(scores, plain)
    places = {head: place for place, head in enumerate(chosen, start=1)}
    for h in range(most):
        draw.text(_inside(draw, str(h), small, label + GAP + h * CELL, top - LINE), str(h), PALE, small)
    for row, (name, values) in enumerate(scores.items()):
        y = top + row * CELL
        draw.text((GAP, y + (CELL - LINE) // 2), name, INK, small)
        for h, value in enumerate(values):
            box = (label + GAP + h * CELL, y, label + GAP + (h + 1) * CELL - 2, y + CELL - 2)
            draw.rectangle(box, fill=_colour(value, middle, reach))
            if value is None:
                draw.line(box, fill=PALE)
            if (place := places.get((name, h))) is not None:
                draw.rectangle(box, outline=INK, width=EDGE)
                draw.text(_inside(draw, str(place), small, box[0], y + 4), str(place), INK, small)
    _legend(draw, middle, reach, plain is not None, top + len(scores) * CELL + GAP)
    return canvas


def _scale(scores: Mapping[str, Sequence[float | None]], plain: float | None) -> tuple[float, float]:
    """Return the score in the middle of the colours, and the largest distance from it."""
    found = [v for row in scores.values() for v in row if v is not None and isfinite(v)]
    if not found:
        return plain or 0.0, 1.0
    middle = (min(found) + max(found)) / 2 if plain is None else plain
    return middle, max(abs(v - middle) for v in found) or 1.0


def _colour(value: float | None, middle: float, reach: float) -> tuple[int, ...]:
    if value is None or not isfinite(value):
        return NONE
    share = max(-1.0, min(1.0, (value - middle) / reach))
    end = BETTER if share > 0 else WORSE
    return tuple(round(a + abs(share) * (b - a)) for a, b in zip(LEVEL, end, strict=True))


def _inside(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont, x: int, y: int
) -> tuple[int, int]:
    """Return the corner at which a text is in the middle of a square."""
    return x + int(CELL - 2 - draw.textlength(text, font)) // 2, y


def _legend(draw: ImageDraw.ImageDraw, middle: float, reach: float, plain: bool, top: int) -> None:
    """Draw the colours with the scores that they stand for."""
    small, x = ImageFont.load_default(12), GAP
    words = "plain pictures" if plain else "the middle"
    for value, name in ((middle - reach, ""), (middle, f" {words}"), (middle + reach, "")):
        draw.rectangle((x, top, x + LINE, top + LINE), fill=_colour(value, middle, reach), outline=PALE)
        text = f"{value:.4g}{name}"
        draw.text((x + LINE + 5, top), text, INK, small)
        x += LINE + 20 + int(draw.textlength(text, small))
    draw.text((GAP, top + LINE + 5), "Numbers in frames: the order in which heads were chosen.", PALE, small)
