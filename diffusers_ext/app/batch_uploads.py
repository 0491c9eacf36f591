"""Read what a visitor uploaded for a batch: a job file, and prompt files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MethodError
from ..jobs import job as jobs
from ..jobs.prompts import FORMATS

LARGEST = 2**20  # bytes of a job file


def read(paths: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Path], str]:
    """Read what was uploaded: a job file with the prompt files that it names, or prompt files alone.

    Returns the tables of the job, the prompt files by their names, and a title. Raises `ValueError` in one
    sentence.
    """
    job_files = [path for path in paths if path.suffix.lower() == ".toml"]
    files = {path.name: path for path in paths if path not in job_files}
    if len(files) + len(job_files) < len(paths):
        raise MethodError("two files have one name; rename one of them.")
    if len(job_files) > 1:
        raise MethodError(f"one job file makes a batch, got {len(job_files)}; hand them in one by one.")
    if job_files:
        path = job_files[0]
        if path.stat().st_size > LARGEST:
            raise MethodError(f"{path.name} is larger than 1 MiB; put the prompts into a file of their own.")
        try:
            return jobs.toml(path), files, path.name
        except (ValueError, OSError) as error:
            raise MethodError(str(error).replace(f"{path.parent}/", "")) from error
    endings = sorted({name[2:] for known in FORMATS.values() for name in known.names if name[:2] == "*."})
    for path in files.values():
        if path.suffix.lower().lstrip(".") not in endings:
            raise MethodError(
                f"{path.name[:80]!r} is no prompt file; its ending is one of toml, {', '.join(endings)}."
            )
    return {"prompts": {"file": list(files)}}, files, next(iter(files), "")
