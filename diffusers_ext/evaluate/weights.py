"""Which weights a result belongs to."""

import hashlib
from pathlib import Path


def fingerprint(folder: Path) -> str:
    """sha256 over names and contents of a model folder's weight files; raises `ValueError` without any."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ValueError(
            f"an evaluated model needs safetensors weights, {str(folder)!r} has none; save it with them"
        )
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()
