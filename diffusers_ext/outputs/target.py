"""Decide the folder and names of the files of `generate`, and check that their kind suits the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .files import is_media, output_folder
from .record import PICTURES
from .video import SUFFIXES, check

FPS = 8.0  # frames per second of videos by default


@dataclass(frozen=True)
class Target:
    """A target is a `folder`, with `stem` and `suffix` if `--out` names one file.

    `fps` is the frame rate of videos, and `None` for pictures.
    """

    folder: Path
    stem: str | None = None
    suffix: str | None = None
    fps: float | None = None

    @classmethod
    def of(cls, out: str | Path, count: int) -> Target:
        """Read `out`, which names a folder, or one file by a known ending.

        The folder is made and proven writable. Raises `ValueError` for an empty name, for several pictures in
        one file, and for endings of other pictures and videos.
        """
        path = Path(out)
        suffix = path.suffix.lower()
        if suffix not in (known := (*PICTURES, *SUFFIXES)):
            if is_media(path):
                raise ValueError(
                    f"--out writes files as {', '.join(known)}, got {str(out)!r}; change the ending, or name "
                    "a folder"
                )
            return cls(output_folder(out))
        if count > 1:
            raise ValueError(
                f"--out names one file, {str(out)!r}, {count} are asked for; name a folder instead"
            )
        return cls(output_folder(path.parent), path.stem, suffix)

    def suited(self, model: str, video: bool, fps: float | None) -> Target:
        """Settle the kind of file; raises `ValueError` if `--out` does not suit the model."""
        kind, suffixes = ("videos", SUFFIXES) if video else ("images", tuple(PICTURES))
        suffix = self.suffix or suffixes[0]
        if suffix not in suffixes:
            raise ValueError(
                f"{model} makes {kind}, which --out writes as {', '.join(suffixes)}, got "
                f"'{self.stem}{suffix}'; change the ending, or name a folder"
            )
        if not video and fps is not None:
            raise ValueError(f"{model} makes images, which have no --fps; leave it out")
        if video:
            fps = FPS if fps is None else fps
            check(suffix, fps)
        return replace(self, suffix=suffix, fps=fps)

    def path(self, stem: str) -> Path:
        """Return the file, under `stem` unless another was named."""
        return self.folder / f"{self.stem or stem}{self.suffix}"
