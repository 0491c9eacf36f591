"""Draw what became of the candidates of a search as one PNG: their pictures, scores, and where they ended."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..candidates import Fate
from .grid import BAD, GAP, GOOD, INK, LINE, PALE, Font, wrap

SIDE = 128  # px of a picture; small ones are enlarged without smoothing
LABEL = 140  # px of the column with the names of candidates
ROWS, COLUMNS = 32, 8  # the most that are shown, beside the last column
ACROSS = 8  # pictures in a line where every candidate has one
FINISHED = "finished"


def sheet(fates: Sequence[Fate], title: Sequence[str]) -> Image.Image:
    """Draw candidates in the order of their fate, the best first, and iterations in their own order.

    With pictures of several steps there is a row for each candidate. Else the pictures follow each other.
    """
    if any(fate.ordered for fate in fates):
        return _tiles(_spread(fates), title, len(fates))
    shown = sorted(fates, key=lambda f: f.rank)[:ROWS]
    places = sorted({step for fate in shown for step in fate.pictures})
    if len(places) > 1:
        return _table(shown, title, places, len(fates))
    return _tiles(shown, title, len(fates))


def _spread(fates: Sequence[Fate]) -> list[Fate]:
    """Return at most about `ROWS` iterations, evenly spread, the best among them."""
    if len(fates) <= ROWS:
        return list(fates)
    best = {i for i, fate in enumerate(fates) if fate.best}
    return [fates[i] for i in sorted(best | {round(i * (len(fates) - 1) / (ROWS - 1)) for i in range(ROWS)})]


def _tiles(shown: Sequence[Fate], title: Sequence[str], total: int) -> Image.Image:
    """Draw one picture for each candidate, line after line."""
    across = min(ACROSS, max(4, ceil((1.6 * len(shown)) ** 0.5)))
    size = _size(shown)
    page = _Page(title, across * (max(size[0], SIDE) + GAP) + GAP, _rest(total - len(shown)))
    pitch = max(size[0], SIDE) + GAP
    for first in range(0, len(shown), across):
        said = [[*fate.lines, *_final(fate)] for fate in shown[first : first + across]]
        lines = [page.wrapped(texts, pitch - GAP) for texts in said]
        top = page.row(size[1] + 4 + LINE * max(map(len, lines)) + GAP)
        for i, fate in enumerate(shown[first : first + across]):
            left = GAP + i * pitch
            if fate.pictures:
                page.picture(fate.pictures[max(fate.pictures)], (left, top), size, _frame(fate))
            page.text(lines[i], (left, top + size[1] + 4), fate.best)
    return page.done()


def _table(shown: Sequence[Fate], title: Sequence[str], places: Sequence[int], total: int) -> Image.Image:
    """Draw a row for each candidate, and a column for each step at which pictures were estimated."""
    steps = max(places) + 1
    estimated = [p for p in places if p < steps - 1]
    if len(estimated) > COLUMNS:
        estimated = sorted(
            {estimated[round(i * (len(estimated) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)}
        )
    size = _size(shown)
    pitch = max(size[0], SIDE) + GAP
    page = _Page(title, LABEL + GAP + (len(estimated) + 1) * pitch, _rest(total - len(shown)))
    heads = [*(f"after step {p + 1} of {steps}" for p in estimated), FINISHED]
    top = page.row(LINE + 6)
    for i, head in enumerate(heads):
        page.text([head], (LABEL + GAP + i * pitch, top), True)
    for fate in shown:
        label = page.wrapped(fate.lines, LABEL - GAP)
        final = page.wrapped(_final(fate), pitch - GAP)
        top = page.row(max(size[1] + 4 + LINE * max(1, len(final)), LINE * len(label)) + GAP)
        page.text(label, (GAP, top), fate.best)
        for i, place in enumerate([*estimated, steps - 1]):
            corner = (LABEL + GAP + i * pitch, top)
            last = place == steps - 1
            if place in fate.pictures:
                page.picture(fate.pictures[place], corner, size, _frame(fate) if last else None)
                said = final if last else [f"{fate.scores[place]:.3f}"] if place in fate.scores else []
                page.text(said, (corner[0], top + size[1] + 4), last and fate.best)
            elif fate.dropped is not None and _first_after(fate.dropped, estimated, steps) == place:
                gone = page.wrapped([f"dropped after step {fate.dropped + 1}"], pitch - GAP)
                page.text(gone, (corner[0], top + size[1] // 2 - LINE), False)
    return page.done()


def _first_after(step: int, places: Sequence[int], steps: int) -> int:
    return next((p for p in places if p > step), steps - 1)


def _final(fate: Fate) -> list[str]:
    """Return the lines under a finished picture."""
    if fate.score is None:
        return [] if fate.dropped is None else [f"dropped after step {fate.dropped + 1}"]
    said = {None: "", True: "right", False: f"wrong: {fate.reason}"}[fate.verdict]
    return [f"{fate.score:.3f}{', the best' if fate.best else ''}", *([said] if said else [])]


def _frame(fate: Fate) -> str | None:
    """Return the colour of the frame; what has no ground truth has one only if it is the best."""
    return {None: INK if fate.best else None, True: GOOD, False: BAD}[fate.verdict]


def _rest(count: int) -> str:
    return f"{count} more are in search.json" if count > 0 else ""


def _size(shown: Sequence[Fate]) -> tuple[int, int]:
    """Return the size in px that pictures are drawn with."""
    found = next((p for fate in shown for p in fate.pictures.values()), None)
    if found is None:
        return SIDE, SIDE
    height, width = found.shape[:2]
    factor = max(SIDE // width, 1) if width <= SIDE else SIDE / width
    return round(width * factor), round(height * factor)


class _Page:
    """A page that grows by rows; drawing waits until its height is known."""

    def __init__(self, title: Sequence[str], width: int, foot: str) -> None:
        self.font, self.small = ImageFont.load_default(15), ImageFont.load_default(12)
        self.ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
        self.width, self.height, self.foot = width, GAP, foot
        self._texts: list[tuple[tuple[int, int], str, str, Font]] = []
        self._pictures: list[tuple[Image.Image, tuple[int, int], str | None]] = []
        for i, text in enumerate(title):
            ink, font = (PALE, self.small) if i else (INK, self.font)
            for line in wrap(self.ruler, text, font, width - 2 * GAP, 3):
                self._texts.append(((GAP, self.row(LINE + 4)), line, ink, font))
        self.height += 4

    def row(self, height: int) -> int:
        """Add a row; return its top."""
        top, self.height = self.height, self.height + height
        return top

    def wrapped(self, texts: Sequence[str], width: int) -> list[str]:
        """Break texts into lines of `width` px."""
        return [line for text in texts for line in wrap(self.ruler, text, self.small, width, 3)]

    def text(self, lines: Sequence[str], corner: tuple[int, int], strong: bool) -> None:
        """Add lines of text below each other."""
        for i, line in enumerate(lines):
            place = (corner[0], corner[1] + i * LINE)
            self._texts.append((place, line, INK if strong else PALE, self.small))

    def picture(self, pixels: Any, corner: tuple[int, int], size: tuple[int, int], frame: str | None) -> None:
        """Add a picture `[H, W, 3]`, with a frame if it has a colour."""
        image = Image.fromarray(pixels)
        kind = Image.Resampling.NEAREST if image.width <= size[0] else Image.Resampling.LANCZOS
        self._pictures.append((image.resize(size, kind), corner, frame))

    def done(self) -> Image.Image:
        """Draw the page."""
        if self.foot:
            self.text([self.foot], (GAP, self.row(LINE + GAP)), False)
        canvas = Image.new("RGB", (self.width, self.height), "white")
        draw = ImageDraw.Draw(canvas)
        for image, (x, y), frame in self._pictures:
            canvas.paste(image, (x, y))
            if frame is not None:
                edge = (x - 3, y - 3, x + image.width + 2, y + image.height + 2)
                draw.rectangle(edge, outline=frame, width=3)
        for place, line, ink, font in self._texts:
            draw.text(place, line, ink, font)
        return canvas
