"""Write clips as mp4 or gif with the true frame size and the true pace."""

from __future__ import annotations

import math
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from .files import write_bytes
from .tags import mp4 as tags

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".mp4", ".gif")
_GIF_MOST = 50  # frames per second; players slow down files with delays under 20 ms


def check(suffix: str, fps: float) -> None:
    """Raise `ValueError` for what cannot be written, before any work is done."""
    if suffix not in SUFFIXES:
        raise ValueError(
            f"a video is written as {' or '.join(SUFFIXES)}, got {suffix!r}; choose one of these"
        )
    if not math.isfinite(fps) or not 1 <= fps <= 240:
        raise ValueError(f"--fps must lie between 1 and 240 frames a second, got {fps:g}; 8 to 30 is usual")
    if suffix == ".gif" and fps > _GIF_MOST:
        raise ValueError(f"a gif plays at most {_GIF_MOST} frames a second, got {fps:g}; write an .mp4")
    if suffix == ".mp4":
        tags.ffmpeg()


def write_video(path: Path, frames: np.ndarray, fps: float, comment: str | None = None) -> None:
    """Write uint8 frames `[T, H, W, 3]` in the format that the suffix of `path` names.

    An mp4 file gets the `comment`; a GIF has none.
    """
    check(path.suffix, fps)
    clip = mp4(frames, fps) if path.suffix == ".mp4" else gif(frames, fps)
    if comment is not None and path.suffix == ".mp4":
        clip = tags.with_comment(clip, comment)
    write_bytes(path, clip)


def mp4(frames: np.ndarray, fps: float) -> bytes:
    """Encode H.264.

    Exporters that round sides to 16 px scale the picture; here every side stays as it is.
    """
    height, width = frames.shape[1:3]
    # Every player shows yuv420p, but it halves the resolution of colours and so needs even sides.
    even = height % 2 == width % 2 == 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        writer = tags.ffmpeg().write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec="libx264",
            macro_block_size=1,
            quality=None,
            pix_fmt_out="yuv420p" if even else "yuv444p",
            output_params=["-crf", "14", "-movflags", "+faststart"],
            ffmpeg_log_level="error",
        )
        writer.send(None)
        for frame in frames:
            writer.send(frame.tobytes())
        writer.close()
        return path.read_bytes()


def gif(frames: np.ndarray, fps: float) -> bytes:
    """Encode an endless loop.

    Delays are integer hundredths of a second; they alternate so that the pace is right.
    """
    from PIL import Image

    ends = [round(100 * (i + 1) / fps) for i in range(len(frames))]
    delays = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]  # ms
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=delays, loop=0)
    return buffer.getvalue()
