"""Clips in an evaluation: how they are kept, looked at as one picture, and judged."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ..zoo.motion import Script
    from ..zoo.track import ClipVerdict

LINE = 1  # px between the frames of a sheet


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Frames uint8 [T, H, W, 3] of one video."""

    frames: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px, as `PIL.Image.size`."""
        return self.frames.shape[2], self.frames.shape[1]

    def sheet(self) -> Image:
        """All frames in one picture, row by row, about as many across as down."""
        from PIL import Image

        count, height, width, _ = self.frames.shape
        across = ceil(count**0.5)
        step = width + LINE, height + LINE
        page = Image.new("RGB", (across * step[0] - LINE, ceil(count / across) * step[1] - LINE), "white")
        for i, frame in enumerate(self.frames):
            page.paste(Image.fromarray(frame), (i % across * step[0], i // across * step[1]))
        return page


def still(image: Image | Clip) -> Image:
    """A picture as it is, a clip as the sheet of its frames."""
    return image.sheet() if isinstance(image, Clip) else image


def verdict(clip: Clip, prompt: str) -> tuple[Script, ClipVerdict] | str:
    """What the ground truth says about a clip, or one sentence why it says nothing."""
    from ..zoo.clips import SIDE
    from ..zoo.motion import parse
    from ..zoo.track import verify_clip

    if clip.size != (SIDE, SIDE):
        return f"no ground truth: not a clip of {SIDE}x{SIDE} pixels"
    try:
        script = parse(prompt)
    except ValueError:
        return "no ground truth: the prompt is not in the grammar of clips"
    return script, verify_clip(clip.frames, script)
