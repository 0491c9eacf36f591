"""Read and write the comment of an mp4 file with ffmpeg. The frames are copied as they are."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

MAGIC = b"ftyp"  # from byte 4 on
_ESCAPED = "=;#\\\n"
# Without this a playlist under the name of a clip could make ffmpeg read other files and addresses.
_AS_MP4 = ("-protocol_whitelist", "file,pipe", "-f", "mp4", "-i")


def with_comment(clip: bytes, text: str) -> bytes:
    """Return the file with a comment, in place of all tags that it had."""
    # By a file, since a command line takes 128 KB.
    lines = "".join(f"\\{sign}" if sign in _ESCAPED else sign for sign in text)
    tags = f";FFMETADATA1\ncomment={lines}\n"
    return _copied(clip, "-f", "ffmetadata", "-i", "tags.txt", "-map_metadata", "1", files={"tags.txt": tags})


def without(path: Path) -> bytes:
    """Return the file without any tags."""
    return _copied(path.read_bytes(), "-map_metadata", "-1", "-map_chapters", "-1")


def comment(path: Path) -> str | None:
    """Return the comment, or `None`; raises `ValueError` for a damaged file, and without ffmpeg."""
    said = _ffmpeg(*_AS_MP4, f"file:{path.resolve()}", "-f", "ffmetadata", "-")
    found = re.search(
        r"^comment=((?:\\.|[^\\\n])*)$", said.decode(errors="replace"), re.MULTILINE | re.DOTALL
    )
    return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if found else None


def ffmpeg() -> Any:
    """Return the package that brings ffmpeg; raises `ValueError` if it is not installed."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ValueError(
            "an .mp4 needs ffmpeg, which comes with the extra 'video'; "
            "run pip install 'diffusers-ext[video]', or write a .gif"
        ) from error
    return imageio_ffmpeg


def _copied(clip: bytes, *options: str, files: dict[str, str] | None = None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "in.mp4").write_bytes(clip)
        for name, text in (files or {}).items():
            (home / name).write_text(text, encoding="utf-8")
        copying = ("-codec", "copy", "-movflags", "+faststart", "-fflags", "+bitexact", "out.mp4")
        _ffmpeg(*_AS_MP4, "in.mp4", *options, *copying, home=folder)
        return (home / "out.mp4").read_bytes()


def _ffmpeg(*words: str, home: str | None = None) -> bytes:
    command = [ffmpeg().get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *words]
    done = subprocess.run(command, capture_output=True, cwd=home)
    if done.returncode:
        raise ValueError(f"ffmpeg cannot read it ({done.stderr.decode(errors='replace').strip()[-200:]})")
    return done.stdout
