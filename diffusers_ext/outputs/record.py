"""Keep the record of how a picture was made: JSON inside its PNG, with the versions of packages."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from .files import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = "diffusers_ext"  # PNG text chunk with the JSON record; viewers read the chunk `parameters`
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy")


def write_image(path: Path, image: Image, record: Mapping[str, Any] | None = None) -> None:
    """Write a PNG, with `record` inside when given."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if record is not None:
        info.add_itxt("parameters", parameters(record), zip=False)
        info.add_itxt(CHUNK, json.dumps(record, ensure_ascii=False, allow_nan=False), zip=False)
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    write_bytes(path, buffer.getvalue())


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record inside a PNG that `write_image` wrote; raises `ValueError` if there is none."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()  # text chunks may follow the pixels
        text = getattr(image, "text", {}).get(CHUNK)
    if text is None:
        raise ValueError(
            f"{os.fspath(path)!r} holds no {CHUNK} record; it was not written by generate, or was stripped"
        )
    return json.loads(text)


def has_record(path: str | os.PathLike[str]) -> bool:
    """Check whether a file is a complete PNG with a record inside."""
    try:
        return bool(read(path))
    except (OSError, SyntaxError, ValueError):  # Pillow raises all three for damaged files
        return False


def parameters(record: Mapping[str, Any]) -> str:
    """Write the one text block that image viewers and galleries understand."""
    call = record.get("call", {})
    facts = {
        "Steps": call.get("num_inference_steps"),
        "CFG scale": call.get("guidance_scale"),
        "Seed": record.get("seed"),
        "Size": "x".join(map(str, record.get("size", []))) or None,
        "Model": record.get("model"),
        "Methods": "+".join(m["name"] for m in record.get("methods", [])) or None,
    }
    lines = [str(record.get("prompt", ""))]
    if call.get("negative_prompt"):
        lines.append(f"Negative prompt: {call['negative_prompt']}")
    return "\n".join([*lines, ", ".join(f"{k}: {v}" for k, v in facts.items() if v is not None)])


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
