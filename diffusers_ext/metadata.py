"""Files that tell how they were made: JSON inside the PNG, a sidecar beside it, and nothing half-written."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from importlib import metadata
from io import BytesIO
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import unwritable

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = "diffusers_ext"  # PNG text chunk with the JSON record; `parameters` beside it is what viewers read
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy")


def output_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, created and proven writable; raises `OSError` in one sentence, before any work is done.

    Raises `ValueError` for no name at all, and for that of a picture or video which is no folder yet.
    """
    if not os.fspath(path).strip():
        raise ValueError(f"--out takes the name of a folder, got {path!r}; write . for the current one")
    folder = Path(path).expanduser()
    if is_media(folder):
        raise ValueError(
            f"--out names a folder here, got that of a file, {str(path)!r}; leave the ending out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"cannot write to the output folder {str(folder)!r} ({reason}); choose another with --out"
        ) from error
    return folder


def is_media(path: Path) -> bool:
    """Whether a name is that of a picture or a video by its ending, which one of a folder `runs-0.5` is not;
    folders that are there may bear any name.
    """
    return (guess_type(path.name)[0] or "").split("/")[0] in ("image", "video") and not path.is_dir()


def subfolder(base: Path, *names: str) -> Path:
    """A folder below `base`, made where it is missing. Raises `OSError` in one sentence, also where `base`
    itself is gone: half of a result in a new folder would look like all of it.
    """
    folder = base
    try:
        for name in names:
            folder = folder / name
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file or none: temporary file, flush to disk, rename; `OSError` in one sentence."""
    try:
        _replace(path, data)
    except OSError as error:
        raise unwritable(path, error) from error


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private, other tools of the user must read it
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    """Writes UTF-8 JSON, whole or not at all; NaN is refused because no other JSON reader takes it."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_image(path: Path, image: "Image", record: Mapping[str, Any] | None = None) -> None:
    """Writes a PNG, with `record` inside when given."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if record is not None:
        info.add_itxt("parameters", parameters(record), zip=False)
        info.add_itxt(CHUNK, json.dumps(record, ensure_ascii=False, allow_nan=False), zip=False)
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    write_bytes(path, buffer.getvalue())


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record inside a PNG that `write_image` wrote; raises `ValueError` where there is none."""
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
    """Whether a file is a whole PNG with a record inside."""
    try:
        return bool(read(path))
    except (OSError, SyntaxError, ValueError):  # Pillow raises all three for damaged files
        return False


def parameters(record: Mapping[str, Any]) -> str:
    """The one text block that image viewers and galleries understand."""
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
    """Versions of ourselves and of the packages a picture depends on; the missing ones are left out."""
    from platform import python_version

    from . import __version__

    found = {"python": python_version(), "diffusers_ext": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def slug(text: str, length: int = 40) -> str:
    """A harmless piece of a file name: lower-case ASCII letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:length].strip("-") or "image"
