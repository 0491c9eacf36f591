"""What a run began with, kept in its checkpoint, so that a run of something else never goes on from there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .. import checksums, weight_files


def of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Seed, checksums and settings that the run of a checkpoint began with; old ones tell the seed alone."""
    return dict(checkpoint.get("identity") or {"seed": checkpoint["seed"]})


def resumed(out: Path, asked: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What the run in `out` began with. Raises `ValueError` where something else is asked for; `None` asks
    for nothing, and what an old checkpoint does not tell is let pass."""
    begun = of(checkpoint)
    told = asked if "identity" in checkpoint else begun
    for key in told:
        if asked[key] is not None and asked[key] != begun.get(key):
            came = "none" if begun.get(key) is None else begun[key]
            raise ValueError(
                f"the run in {out} was begun with another {key}, {came}; choose another --out, or begin anew "
                "with --restart"
            )
    return begun


def checksum(file: Path) -> str:
    """Sha256 of one file."""
    return checksums([file], file.parent)[file.name]


def of_start(folder: Path | None, parts: Collection[str]) -> dict[str, Any] | None:
    """Name of a folder that a run starts from, and the sha256 of what it takes from there for `parts`."""
    if folder is None:
        return None
    files = [file for file in weight_files(folder) if file.parent.name in parts]
    return {"name": folder.resolve().name, "sha256": checksums(files, folder)}
