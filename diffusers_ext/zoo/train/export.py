"""From a checkpoint to a folder that diffusers loads: fp16 safetensors, a card with checksums, a thin log."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import CARD, MODELS, checksums, weight_files
from ..models import build_sd3
from .config import Schedule, SD3Config
from .flow import restore, trained_parameters
from .loop import load_checkpoint
from .vae import measure

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusion3Pipeline

LOG_LINES = 2000


def export_sd3(
    run: Path, vae: AutoencoderKL, out: Path, config: SD3Config | None = None, probe: int = 400
) -> StableDiffusion3Pipeline:
    """Write the averaged weights of a run as a pipeline folder, with card.json and training_log.jsonl.

    `probe` pictures measure the autoencoder for the card.
    """
    import torch

    state = load_checkpoint(run / "checkpoint.pt")
    pipe = build_sd3(vae)
    parameters = trained_parameters(pipe)
    restore(parameters, dict(zip(parameters, state["average"], strict=True)))
    save_half(pipe, out)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    (out / "training_log.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in thin(lines, LOG_LINES))
    )
    schedule = Schedule(*state["schedule"])
    config = replace(config or SD3Config(), samples=schedule.total)
    card = {
        "name": "shapes-sd3",
        "licence": "Apache-2.0",
        "pipeline": MODELS["shapes-sd3"].pipeline,
        "call": dict(MODELS["shapes-sd3"].call),
        "data": "diffusers_ext.zoo.render, seed below; no held-out pair drawn, no held-out triple named",
        "seed": state["seed"],
        "config": asdict(config),
        "schedule": asdict(schedule),
        "steps": state["step"],
        "samples": state["step"] * config.batch,
        "hours": round(state["seconds"] / 3600, 2),
        "hardware": hardware(),
        "precision": "bf16 autocast, fp32 weights and average; stored as fp16",
        "autoencoder": measure(vae, probe),
        "torch": torch.__version__,
        "sha256": checksums(weight_files(out), out),
    }
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n")
    return pipe


def save_half(pipe: StableDiffusion3Pipeline, out: Path) -> None:
    """save_pretrained with fp16 weights and configs that say float32: a bare load computes in float32."""
    import torch
    from safetensors.torch import load_file, save_file

    if out.exists():
        for file in weight_files(out):
            file.unlink()
    pipe.save_pretrained(out)
    for file in weight_files(out):
        tensors = load_file(file)
        half = {k: v.half() if v.dtype == torch.float32 else v for k, v in tensors.items()}
        if not all(torch.isfinite(v).all() for v in half.values()):
            raise ValueError(
                f"fp16 holds values up to 65504, {file.parent.name}/{file.name} has larger ones; train again"
            )
        save_file(half, file, metadata={"format": "pt"})
    for file in out.glob("*/config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:  # a path of the machine that trained
            file.write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(out / ".cache", ignore_errors=True)


def thin(lines: list[dict[str, Any]], limit: int) -> Iterable[dict[str, Any]]:
    """Every evaluation, the last line, and evenly chosen others: at most `limit` lines."""
    kept = [i for i, line in enumerate(lines) if "exact" in line]
    others = [i for i, line in enumerate(lines) if "exact" not in line]
    stride = -(-len(others) // max(limit - len(kept) - 1, 1)) or 1
    chosen = {*kept, *others[::stride], len(lines) - 1} if lines else set()
    return [lines[i] for i in sorted(chosen)]


def hardware() -> str:
    """The machine in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if names.exists():
        lines = [
            s.split(":", 1)[1].strip() for s in names.read_text().splitlines() if s.startswith("model name")
        ]
        model = lines[0] if lines else model
    units = ", bf16 matrix units" if torch.cpu._is_amx_tile_supported() else ""
    return f"{model}{units}, {torch.get_num_threads()} thread(s)"
