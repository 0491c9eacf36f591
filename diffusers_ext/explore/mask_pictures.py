"""Draw the keys that one query sees, frame by frame, and find the token at a place of the drawing."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..kernels.geometry import Grid
from .one_query import OneQuery

WIDTH, HEIGHT = 720, 960  # px that a drawing has at most, where a token has a pixel
EDGE = 24  # px of a token at most
GAP, LABEL = 8, 16  # px between frames, and of the line above a frame
PAPER, INK = (246, 246, 248), (60, 60, 70)
HIDDEN, MASKED, SEEN, QUERY = (38, 42, 56), (84, 112, 168), (250, 190, 60), (255, 255, 255)
RING = (214, 39, 60)  # around the query


@dataclass(frozen=True)
class Drawing:
    """The geometry of a drawing of the frames of a grid: `edge` px a token, `across` frames in a row."""

    grid: Grid
    edge: int
    across: int

    @classmethod
    def of(cls, grid: Grid) -> Drawing:
        """Return the largest drawing that fits; a token has one pixel at least."""
        frames, h, w = grid
        for edge in range(EDGE, 0, -1):
            across = min(max((WIDTH + GAP) // (w * edge + GAP), 1), frames)
            down = ceil(frames / across)
            if w * edge <= WIDTH and down * (h * edge + LABEL + GAP) <= HEIGHT:
                return cls(grid, edge, across)
        return cls(grid, 1, across)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        down = ceil(self.grid[0] / self.across)
        return self.across * self._step[0] - GAP, down * self._step[1] - GAP

    def corner(self, frame: int) -> tuple[int, int]:
        """Return where a frame begins, below its label."""
        return frame % self.across * self._step[0], frame // self.across * self._step[1] + self._label

    def token_at(self, x: int, y: int) -> Grid | None:
        """Return the token `(t, h, w)` at a pixel, `None` between frames."""
        across, down = x // self._step[0], y // self._step[1]
        frame = down * self.across + across
        row, column = (
            (y - down * self._step[1] - self._label) // self.edge,
            (x - across * self._step[0]) // self.edge,
        )
        inside = across < self.across and 0 <= row < self.grid[1] and 0 <= column < self.grid[2]
        return (frame, row, column) if inside and 0 <= frame < self.grid[0] else None

    @property
    def _label(self) -> int:
        return LABEL if self.grid[0] > 1 else 0

    @property
    def _step(self) -> tuple[int, int]:
        _, h, w = self.grid
        return w * self.edge + GAP, h * self.edge + self._label + GAP


def draw(found: OneQuery) -> Image.Image:
    """Draw what a query sees: bright keys are seen, blue ones visited and masked, dark ones skipped."""
    grid = tuple(found.seen.shape)
    drawing = Drawing.of(grid)
    canvas = Image.new("RGB", drawing.size, PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    cells = np.array([HIDDEN, MASKED, SEEN], np.uint8)[found.visited.numpy().astype(int) + found.seen.numpy()]
    cells[found.query] = QUERY
    for number, frame in enumerate(cells):
        x, y = drawing.corner(number)
        shown = frame.repeat(drawing.edge, 0).repeat(drawing.edge, 1)
        canvas.paste(Image.fromarray(shown), (x, y))
        if grid[0] > 1:
            pen.text((x, y - LABEL + 1), f"frame {number}", INK, font)
    t, h, w = found.query
    x, y = drawing.corner(t)
    x, y, edge = x + w * drawing.edge, y + h * drawing.edge, drawing.edge
    for wide, colour in ((3, RING), (1, QUERY)):
        pen.rectangle((x - wide, y - wide, x + edge - 1 + wide, y + edge - 1 + wide), outline=colour, width=1)
    pen.rectangle((x - 2, y - 2, x + edge + 1, y + edge + 1), outline=RING, width=1)
    return canvas
