"""Identify the model of a result by its weights, and by the files that say how they are used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..zoo import cards

_WEIGHTS = (".safetensors", ".bin")
_WHOLE = 2**28  # bytes of weights that are read completely, in about half a second
_SAMPLES, _PIECE = (
    256,
    2**14,
)  # pieces of a file, evenly spread from its first byte to its last, and their bytes
TEXTS = (".json", ".jinja", ".model", ".txt")  # endings of configs, schedulers and tokenizers


def marks(folder: Path) -> dict[str, str]:
    """Return the checksums that identify the pipeline in `folder`: `weights` and `configs`."""
    return {"weights": fingerprint(folder), "configs": configs(folder)}


def quick(folder: Path) -> str:
    """Return `fingerprint` for models up to `_WHOLE`, and a checksum of samples for larger ones.

    Files of large models would take longer to read than a picture takes to make. So the sha256 is over names,
    sizes and samples of the weight files, and is marked as such.
    """
    files = [f for kind in _WEIGHTS for f in folder.rglob(f"*{kind}")]
    sizes = {f.relative_to(folder).as_posix(): f.stat().st_size for f in files}
    if sum(sizes.values()) <= _WHOLE and any(f.suffix == _WEIGHTS[0] for f in files):
        return fingerprint(folder)
    total = hashlib.sha256()
    for name in sorted(sizes):
        total.update(f"{name} {sizes[name]}\n".encode())
        with (folder / name).open("rb") as file:
            for place in range(_SAMPLES):
                file.seek(place * max(sizes[name] - _PIECE, 0) // (_SAMPLES - 1))
                total.update(file.read(_PIECE))
    return f"sampled {total.hexdigest()}"


def configs(folder: Path) -> str:
    """Return a sha256 over a pipeline's index and its components' configs, schedulers and tokenizers.

    Borrowed components count as well: equal weights make other pictures with other configs. Files beside the
    components, such as a card, do not count.
    """
    index = folder / cards.INDEX
    own = {name: folder / name for name in json.loads(index.read_text(encoding="utf-8"))}
    files = {cards.INDEX: index}
    for name, home in (own | cards.borrowed(folder)).items():
        files |= {f"{name}/{f.name}": f for f in home.glob("*") if f.suffix in TEXTS}
    return _total(files)


def fingerprint(folder: Path) -> str:
    """Return a sha256 over names and contents of a model's weight files, those of shared components included.

    Raises `ValueError` if there are none.
    """
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*.safetensors")}
    files |= {name: file for name, file in cards.all_weights(folder).items() if name not in files}
    if not files:
        raise ValueError(
            f"an evaluated model needs safetensors weights, {str(folder)!r} has none; save it with them"
        )
    return _total(files)


def _total(files: Mapping[str, Path]) -> str:
    total = hashlib.sha256()
    for name in sorted(files, key=PurePosixPath):
        total.update(f"{name} {cards.sha256(files[name])}\n".encode())
    return total.hexdigest()
