"""Compute the checksum of the code that times depend on, so that later runs know which rows still hold."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What attention under a session depends on, besides the bench itself.
SESSIONS = (
    "diffusers_ext/kernels/**/*.py",
    "diffusers_ext/processors/**/*.py",
    *(f"bench/timing/{name}.py" for name in ("dense", "session_calls", "stopwatch")),
)


@cache
def checksum(names: tuple[str, ...]) -> str:
    """Return a short checksum of the files that match some patterns, from the root of the checkout."""
    files = [file for name in names for file in ROOT.glob(name)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]
