"""Read a model's card, which training wrote beside it, and the weight files that it has checksums of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .catalogue import MODELS, path

CARD, INDEX = "card.json", "model_index.json"
_ENTRIES = MappingProxyType({"call": dict, "tasks": list, "sha256": dict})  # card entries that are read later


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model folder or of the parts of a pipeline, sorted."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])


def borrowed(folder: Path) -> dict[str, Path]:
    """Return the folders of the components that a pipeline takes from another shipped model, by name.

    Components that two models have in common are stored once. The card names the lender under `shares`.
    """
    lender = MODELS.get(str(card(folder).get("shares")))
    if lender is None:
        return {}
    home = path(card(folder)["shares"])
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    parts = [name for name in index if (home / name).is_dir() and not (folder / name).is_dir()]
    return {name: home / name for name in parts}


def all_weights(folder: Path) -> dict[str, Path]:
    """Return the weight files of a pipeline by their path inside its folder, with those it borrows."""
    files = {f.relative_to(folder).as_posix(): f for f in weight_files(folder)}
    for name, home in borrowed(folder).items():
        files |= {f"{name}/{f.name}": f for f in sorted(home.glob("*.safetensors"))}
    return files


def checksums(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Return the sha256 of each file by its path inside `folder`."""
    return {f.relative_to(folder).as_posix(): sha256(f) for f in files}


def sha256(file: Path) -> str:
    """Return the sha256 of one file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def card(folder: Path) -> dict[str, Any]:
    """Read what training wrote about a model; `{}` without a card.

    Other projects have files of this name, so entries of another type are left out. Raises `ValueError` for
    a file that is no JSON.
    """
    if not (folder / CARD).is_file():
        return {}
    try:
        found = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CARD} is no JSON in UTF-8 ({error}); restore or delete it") from error
    entries = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in entries if isinstance(value, _ENTRIES.get(key, object))}


def verify_weights(folder: str | Path) -> None:
    """Compare weight files with the sha256 in the card.

    Raises `ValueError` with the name of the first bad file, and `FileNotFoundError` without checksums.
    """
    folder = Path(folder)
    if (asked := card(folder).get("sha256")) is None:
        raise FileNotFoundError(
            f"{folder} has no {CARD} with checksums; install the package again or train the model"
        )
    found = {name: sha256(file) for name, file in all_weights(folder).items()}
    for name in sorted(asked):  # other files, such as a LoRA, were not part of the training
        if asked[name] != found.get(name):
            rule = f"{str(asked[name])[:12]}..."
            came = f"{found[name][:12]}..." if name in found else "nothing"
            raise ValueError(
                f"the sha256 of {folder / name} must match {CARD}: asked {rule}, found {came}; "
                "restore the file, or save changed weights to another folder"
            )
