"""Write the outcome of each part of a run on a lent machine, as JSON and as a table with sentences."""

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffusers_ext.kernels.block_sparse.descriptors import why_pointers
from diffusers_ext.outputs.files import write_text
from diffusers_ext.versions import installed

from .timing.stopwatch import machine

NEEDED = 40 << 30  # bytes; a block of HunyuanVideo at 720p with its copies


@dataclass
class Outcome:
    """An outcome says what became of a part.

    `state` is done, failed, stopped (at its deadline), interrupted or left out. `why` is one sentence for all
    states but the first. `rows` counts the rows of its record. `failed` has a sentence for each failed case,
    and `waiting` names the cases that did not begin.
    """

    part: str
    state: str
    why: str = ""
    seconds: float = 0.0
    deadline_s: float = 0.0
    rows: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)


def facts(device: str) -> dict[str, Any]:
    """Return what times depend on besides the code."""
    found = {"device": machine(device), "python": platform.python_version(), "torch": torch.__version__}
    versions = {package: installed(package) for package in ("triton", "diffusers", "transformers")}
    found |= {package: version for package, version in versions.items() if version is not None}
    if device != "cpu":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), **driver()}
        major, minor = torch.cuda.get_device_capability()
        found["tiles"] = why_pointers(10 * major + minor) or "read by descriptors"
        if (why := too_small(*torch.cuda.mem_get_info())) is not None:
            found["memory"] = why
    return found


def too_small(free: int, total: int) -> str | None:
    """Return a sentence if the largest cases do not fit a GPU with so many bytes, else `None`."""
    if free >= NEEDED:
        return None
    return (
        f"the largest cases take up to {NEEDED / 2**30:.0f} GiB and {free / 2**30:.1f} of "
        f"{total / 2**30:.1f} GiB are free; those that do not fit fail, and all others run"
    )


def driver() -> dict[str, str]:
    """Return driver and clocks from nvidia-smi; empty without it."""
    asked = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    try:
        words = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(asked.split(","), map(str.strip, said.splitlines()[0].split(",")), strict=False))


def write(out: Path, about: dict[str, Any], outcomes: Sequence[Outcome], constants: str = "") -> str:
    """Write both summaries and return the text of `summary.md`, with `constants` at its end."""
    record = about | {"parts": [asdict(outcome) for outcome in outcomes], "constants": constants}
    text = summary(about, outcomes) + (f"\n{constants}" if constants else "")
    write_text(out / "summary.json", json.dumps(record, indent=1) + "\n")
    write_text(out / "summary.md", text)
    return text


def summary(about: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return what ran, what failed and why, and what was left out, in Markdown."""
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines += ["| part | state | rows | failed | left | seconds | of |", "|---|---|---|---|---|---|---|"]
    for o in outcomes:
        counts = f"{o.rows} | {len(o.failed)} | {len(o.waiting)} | {o.seconds:.0f} | {o.deadline_s:.0f}"
        lines.append(f"| {o.part} | {o.state} | {counts} |")
    lines.append("")
    for o in outcomes:
        lines += [f"- {o.part}: {o.why}"] if o.why else []
        lines += [f"  - {case}: {why}" for case, why in o.failed.items()]
        lines += [f"  - left out: {', '.join(o.waiting)}"] if o.waiting else []
    return "\n".join(lines).rstrip() + "\n"
