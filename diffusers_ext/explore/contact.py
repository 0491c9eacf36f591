"""Draw contact sheets: tables of pictures with words below them, and colours for maps of attention."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..evaluate.report.grid import BAD, GAP, GOOD, INK, LINE, PALE, Font, wrap

SIDE = 144  # px of a picture; small ones are enlarged without smoothing
LABEL = 150  # px of the column with the names of rows
ACROSS = 6  # pictures in a line where rows have no names
BAR = 12  # px, height of the colour bar
# Dark to bright, with a lightness that only grows, as the colour map "inferno"; the last is not white.
STOPS = np.float32([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)])
COVER = 0.72  # opacity of a map over its picture


@dataclass(frozen=True)
class Cell:
    """A picture of a sheet with the lines below it, and a verdict that colours its frame."""

    image: Image.Image | None
    lines: tuple[str, ...] = ()
    verdict: bool | None = None


def colours(values: np.ndarray) -> np.ndarray:
    """Return the colours `[..., 3]` of values from 0 to 1, from dark to bright."""
    place = np.clip(values, 0, 1) * (len(STOPS) - 1)
    low = np.minimum(place.astype(int), len(STOPS) - 2)
    share = (place - low)[..., None]
    return STOPS[low] * (1 - share) + STOPS[low + 1] * share


def overlay(picture: Image.Image, values: np.ndarray) -> Image.Image:
    """Cover a picture, in grey, by a map `[h, w]` in colours, each place of the map as a block.

    The map is scaled by its largest value.
    """
    top = float(values.max())
    shown = Image.fromarray(colours(values / top if top > 0 else values).astype(np.uint8))
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, shown.resize(grey.size, Image.Resampling.NEAREST), COVER)


def fitted(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Return a picture in RGB with a longer side of about `side` px; small ones keep sharp edges."""
    image, longer = image.convert("RGB"), max(image.size)
    factor = side // longer if longer <= side else side / longer
    kind = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    size = tuple(max(round(n * factor), 1) for n in image.size)
    return image.resize(size, kind)


def sheet(
    title: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    heads: Sequence[str] = (),
    legend: str = "",
) -> Image.Image:
    """Draw rows of cells below a title, with names of rows and columns where there are any.

    `legend` is the sentence beside a bar of the colours of maps.
    """
    small, ruler = ImageFont.load_default(12), ImageDraw.Draw(Image.new("L", (1, 1)))
    left = LABEL if any(name for name, _ in rows) else 0
    shown = [[c.image and fitted(c.image) for c in cells] for _, cells in rows]
    wide = max([SIDE, *(i.width for row in shown for i in row if i)])
    across = max(len(cells) for _, cells in rows)
    width = max(GAP + left + across * (wide + GAP), 3 * SIDE)
    painter = _Painter(width)
    for i, text in enumerate(title):
        painter.text(wrap(ruler, text, small, width - 2 * GAP, 3), GAP, INK if i == 0 else PALE)
    if heads:
        lines = [wrap(ruler, name, small, wide, 3) for name in heads]
        painter.row([(GAP + left + i * (wide + GAP), text, INK) for i, text in enumerate(lines)])
    for (name, cells), images in zip(rows, shown, strict=True):
        texts = [[line for text in c.lines for line in wrap(ruler, text, small, wide, 3)] for c in cells]
        top = painter.height
        tall = max([i.height for i in images if i], default=SIDE)
        for i, (cell, image) in enumerate(zip(cells, images, strict=True)):
            if image is not None:
                painter.picture(image, (GAP + left + i * (wide + GAP), top), cell.verdict)
        painter.at([(GAP, _broken(ruler, name, small, LABEL - GAP), INK)], top)
        painter.height = top + tall + 6
        painter.row([(GAP + left + i * (wide + GAP), text, PALE) for i, text in enumerate(texts)])
    if legend:
        painter.bar(wrap(ruler, legend, small, width - 2 * GAP - 200, 4))
    return painter.done()


def tiles(title: Sequence[str], cells: Sequence[Cell], legend: str = "") -> Image.Image:
    """Draw cells line after line, `ACROSS` in each."""
    lines = ceil(len(cells) / ACROSS)
    rows = [("", cells[i * ACROSS : (i + 1) * ACROSS]) for i in range(lines)]
    return sheet(title, rows, legend=legend)


def _broken(ruler: ImageDraw.ImageDraw, name: str, font: Font, width: int) -> list[str]:
    """Break a name into lines, at spaces, or behind its dots where it has no spaces."""
    lines = [""]
    for piece in re.findall(r"[^. ]*[. ]?", name):
        if lines[-1] and ruler.textlength(lines[-1] + piece.rstrip(), font) > width:
            lines.append("")
        lines[-1] += piece
    return [short for line in lines for short in wrap(ruler, line, font, width, 2)]


class _Painter:
    """A page that grows by rows; drawing waits until its height is known."""

    def __init__(self, width: int) -> None:
        self.width, self.height = width, GAP
        self._texts: list[tuple[tuple[int, int], str, str]] = []
        self._pictures: list[tuple[Image.Image, tuple[int, int], bool | None]] = []

    def text(self, lines: Sequence[str], x: int, ink: str) -> None:
        """Add lines below each other."""
        self.row([(x, lines, ink)])

    def row(self, blocks: Sequence[tuple[int, Sequence[str], str]]) -> None:
        """Add blocks of lines beside each other, and go on below the longest."""
        self.at(blocks, self.height)
        self.height += LINE * max((len(lines) for _, lines, _ in blocks), default=0) + 4

    def at(self, blocks: Sequence[tuple[int, Sequence[str], str]], top: int) -> None:
        """Add blocks of lines at a height."""
        for x, lines, ink in blocks:
            self._texts += [((x, top + i * LINE), line, ink) for i, line in enumerate(lines)]

    def picture(self, image: Image.Image, corner: tuple[int, int], verdict: bool | None) -> None:
        """Add a picture."""
        self._pictures.append((image, corner, verdict))

    def bar(self, lines: Sequence[str]) -> None:
        """Add the bar of colours and the sentence about it."""
        ramp = colours(np.linspace(0, 1, 180, dtype=np.float32))[None].repeat(BAR, 0)
        self.picture(Image.fromarray(ramp.astype(np.uint8)), (GAP, self.height + 2), None)
        self.row([(GAP + 190, lines, PALE)])

    def done(self) -> Image.Image:
        """Draw the page."""
        canvas = Image.new("RGB", (self.width, self.height + GAP), "white")
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
        for image, (x, y), verdict in self._pictures:
            canvas.paste(image, (x, y))
            if verdict is not None:
                edge = (x - 3, y - 3, x + image.width + 2, y + image.height + 2)
                draw.rectangle(edge, outline=GOOD if verdict else BAD, width=3)
        for place, line, ink in self._texts:
            draw.text(place, line, ink, font)
        return canvas
