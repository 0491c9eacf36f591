"""Keep the record of how a picture was made: JSON inside its file, with the versions of packages."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .._version import __version__
from . import inside
from .files import write_bytes
from .inside import CHUNK
from .parameters import KEY, parameters
from .tags import exif, jpeg, xmp

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy")
# The endings of pictures. JPEG loses a little at this quality, PNG and WebP nothing.
PICTURES = MappingProxyType(
    {
        ".png": ("PNG", {}),
        ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
        ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
        ".webp": ("WEBP", {"lossless": True}),
    }
)


def write_image(path: Path, image: Image, record: Mapping[str, Any] | None = None) -> None:
    """Write a picture in the format of its ending, one of `PICTURES`, with `record` inside when given.

    Raises `ValueError` for another ending.
    """
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"pictures are written as {', '.join(PICTURES)}, got {path.name!r}")
    kind, settings = PICTURES[path.suffix.lower()]
    buffer = BytesIO()
    texts = {} if record is None else _texts(kind, record)
    (image.convert("RGB") if kind == "JPEG" else image).save(buffer, format=kind, **settings, **texts)
    write_bytes(path, buffer.getvalue())


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record inside a picture or clip; raises `ValueError` if there is none, in one sentence."""
    record, _ = inside.texts(path)
    if record is None:
        raise ValueError(
            f"{os.fspath(path)!r} holds no {CHUNK} record; it was not written by generate, or was stripped"
        )
    return _parsed(record, path)


def sources(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, str | None, bool]:
    """Return the record of a picture or clip, its block of `parameters`, and if the record is inside it.

    A record may also be in the JSON file beside. One without a call, which a user wrote, counts only without
    a block. Raises `ValueError` and `OSError` as `read` does, but none if a record or block is missing.
    """
    record, block = inside.texts(path)
    if record is not None:
        return _parsed(record, path), block, True
    found = beside(path)
    return (found if found and ("call" in found or block is None) else None), block, False


def beside(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record in the JSON file beside a picture, or `None` if there is none of its kind."""
    try:
        found = json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "prompt" in found else None


def has_record(path: str | os.PathLike[str]) -> bool:
    """Check whether a file is a complete picture with a record inside."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
        return bool(read(path))
    except (OSError, SyntaxError, ValueError):  # Pillow raises all three for damaged files
        return False


def comment(record: Mapping[str, Any]) -> str:
    """Write the comment of a clip, which holds the record."""
    return _json({CHUNK: record})


def versions() -> dict[str, str]:
    """Return the versions of this package and of those a picture depends on; missing ones are left out."""
    from platform import python_version

    found = {"python": python_version(), "diffusers_ext": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _texts(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which Pillow writes the record into a picture."""
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(KEY, parameters(record), zip=False)
        info.add_itxt(CHUNK, json.dumps(record, ensure_ascii=False, allow_nan=False), zip=False)
        return {"pnginfo": info}
    packet, shown = xmp.packet(_json(record)), exif.block(parameters(record))
    if kind == "JPEG":
        return {"exif": shown, "extra": jpeg.segments(packet)}
    return {"exif": shown, "xmp": packet}


def _parsed(record: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        found = json.loads(record)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{os.fspath(path)!r} holds a {CHUNK} record that is no JSON object; it was changed")
    return found


def _json(data: Any) -> str:
    """Write ASCII, which no tool reads in another encoding."""
    return json.dumps(data, allow_nan=False)
