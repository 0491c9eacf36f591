"""Keep the origin of a run in its checkpoint, so that a run of another origin never goes on from there."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..zoo.cards import checksums, weight_files
from ..zoo.catalogue import path


def of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return seed, checksums and settings that the run of a checkpoint began with.

    Old checkpoints hold the seed alone.
    """
    return dict(checkpoint.get("identity") or {"seed": checkpoint["seed"]})


def resumed(out: Path, asked: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run in `out` began with.

    Raises `ValueError` if something else is asked for; `None` asks for nothing. An old checkpoint is
    compared by its seed alone.
    """
    begun = of(checkpoint) if "identity" in checkpoint else {**asked, **of(checkpoint)}
    for key in sorted(asked.keys() | begun.keys()):
        if key in asked and asked[key] is None:
            continue
        if _sums(asked.get(key)) != _sums(begun.get(key)):
            came = "none" if begun.get(key) is None else begun[key]
            raise ValueError(
                f"the run in {out} was begun with another {key}, {came}; choose another --out, or begin anew "
                "with --restart"
            )
    return begun


def _sums(value: Any) -> Any:
    """Return the checksums of a folder, which identify it even if it was renamed."""
    return value.get("sha256", value) if isinstance(value, Mapping) else value


def of_text(model: str) -> str:
    """Return the sha256 of the text half of a reward; its picture half may go on learning."""
    from safetensors import safe_open

    total = hashlib.sha256()
    with safe_open(path(model) / "model.safetensors", "pt") as file:
        for name in sorted(n for n in file.keys() if n.startswith("text_model.")):  # noqa: SIM118, no dict
            total.update(name.encode() + file.get_tensor(name).numpy().tobytes())
    return total.hexdigest()


def of_start(folder: Path | None, parts: Collection[str] | None = None) -> dict[str, Any] | None:
    """Return the name of a folder that a run starts from, and the sha256 of what it takes from there.

    It takes the weights of those `parts` of a pipeline, or all.
    """
    if folder is None:
        return None
    files = [file for file in weight_files(folder) if parts is None or file.parent.name in parts]
    return {"name": folder.resolve().name, "sha256": checksums(files, folder)}
