"""Write job files for tests."""

import json
from pathlib import Path

TURBO = '[model]\nname = "shapes-sd-turbo"\n'
PROMPTS = '[prompts]\ntexts = ["a red circle", "two green squares"]\nseeds = "0-2"\n'


def write(folder: Path, text: str = TURBO + PROMPTS, name: str = "job.toml") -> Path:
    """Write a job file and return its path."""
    path = folder / name
    path.write_text(text)
    return path


def lines(out: Path) -> list[dict]:
    """Read all lines of the manifests of a folder, in the order of their files."""
    files = sorted((out / "manifest").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def pictures(out: Path) -> dict[str, bytes]:
    """Read the pictures of a folder by their paths below it."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.png")}
