"""Hold the frames of a clip, and show them as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

LINE = 1  # px between the frames of a sheet


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip holds the frames of one video, uint8 `[T, H, W, 3]`."""

    frames: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height in px, as `PIL.Image.size` does."""
        return self.frames.shape[2], self.frames.shape[1]

    def sheet(self) -> Image:
        """Put all frames into one picture, row by row, about as many across as down."""
        from PIL import Image

        count, height, width, _ = self.frames.shape
        across = ceil(count**0.5)
        step = width + LINE, height + LINE
        page = Image.new("RGB", (across * step[0] - LINE, ceil(count / across) * step[1] - LINE), "white")
        for i, frame in enumerate(self.frames):
            page.paste(Image.fromarray(frame), (i % across * step[0], i // across * step[1]))
        return page


def still(image: Image | Clip) -> Image:
    """Return a picture as it is, and a clip as the sheet of its frames."""
    return image.sheet() if isinstance(image, Clip) else image
