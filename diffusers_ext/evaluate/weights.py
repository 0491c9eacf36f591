"""Which weights a result belongs to."""

import hashlib
from pathlib import Path, PurePosixPath

from .. import zoo


def fingerprint(folder: Path) -> str:
    """sha256 over names and contents of a model folder's weight files, those of components that it shares
    with another model of the zoo included; raises `ValueError` without any."""
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*.safetensors")}
    files |= {name: file for name, file in zoo.all_weights(folder).items() if name not in files}
    if not files:
        raise ValueError(
            f"an evaluated model needs safetensors weights, {str(folder)!r} has none; save it with them"
        )
    total = hashlib.sha256()
    for name in sorted(files, key=PurePosixPath):
        total.update(f"{name} {zoo.sha256(files[name])}\n".encode())
    return total.hexdigest()
