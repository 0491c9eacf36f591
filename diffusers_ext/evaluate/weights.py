"""Which model a result belongs to: its weights, and the files that say how they are used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..zoo import cards

_WEIGHTS = (".safetensors", ".bin")
_WHOLE = 2**28  # bytes of weights that are read whole, in about half a second
_SAMPLES, _PIECE = (
    256,
    2**14,
)  # pieces of a file, evenly spread from its first byte to its last, and their bytes
TEXTS = (".json", ".jinja", ".model", ".txt")  # endings of configs, schedulers and tokenizers


def marks(folder: Path) -> dict[str, str]:
    """What tells the results of the pipeline in `folder` from those of others: `weights` and `configs`."""
    return {"weights": fingerprint(folder), "configs": configs(folder)}


def quick(folder: Path) -> str:
    """`fingerprint` for models up to `_WHOLE`; of larger ones, whose files would take longer to read than a
    picture to make, a sha256 over names, sizes and samples of the weight files, marked as such.
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
    """sha256 over names and contents of a pipeline's index and of its components' configs, schedulers and
    tokenizers, those of borrowed components included: equal weights make other pictures with others. What
    lies beside the components, such as a card, does not count."""
    index = folder / cards.INDEX
    own = {name: folder / name for name in json.loads(index.read_text(encoding="utf-8"))}
    files = {cards.INDEX: index}
    for name, home in (own | cards.borrowed(folder)).items():
        files |= {f"{name}/{f.name}": f for f in home.glob("*") if f.suffix in TEXTS}
    return _total(files)


def fingerprint(folder: Path) -> str:
    """sha256 over names and contents of a model folder's weight files, those of components that it shares
    with another model of the zoo included; raises `ValueError` without any."""
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
