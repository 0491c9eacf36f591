"""Write a checkpoint as a folder that diffusers loads: fp16 weights, a card with checksums, a short log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from filecmp import cmpfiles
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..outputs.files import write_text
from ..zoo.cards import CARD, INDEX, checksums, weight_files
from ..zoo.catalogue import MODELS, path
from . import provenance
from .average import averaged
from .checkpoint import load_checkpoint
from .fit import FULL_LOG
from .log import Log
from .machine import hardware, precision
from .objective import Objective
from .recipes import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedModel

LOG_LINES = 2000
PRECISION = {"bf16": "bf16 autocast, ", "no": ""}


class PipelineObjective(Objective, Protocol):
    """This objective's model is a pipeline, or another class with `save_pretrained`."""

    pipe: Any


def export(objective: PipelineObjective, run: Path, out: Path, name: str, **facts: Any) -> None:
    """Write the averaged weights of a run as a model folder, with card.json and training_log.jsonl.

    `facts` are further entries of the card, such as the quality of the autoencoder.
    """
    state = load_checkpoint(run / "checkpoint.pt")
    averaged(objective, state)
    save_half(objective.pipe.to("cpu"), out)
    describe(objective, state, Log(run / "log.jsonl").read(), out, name, **facts)


def describe(
    objective: PipelineObjective,
    state: Mapping[str, Any],
    log: list[dict[str, Any]],
    out: Path,
    name: str,
    **facts: Any,
) -> None:
    """Write card.json and training_log.jsonl beside saved weights, from the checkpoint `state` and the log.

    `facts` replace entries of the card, or add to it.
    """
    import torch

    lines = thin(log, LOG_LINES)
    write_text(out / "training_log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    schedule, begun = Schedule(*state["schedule"]), provenance.of(state)
    use = {"model": type(objective.pipe).__name__}
    if model := MODELS.get(name):
        use = {"pipeline": model.pipeline, "call": dict(model.call)}
    card = {
        "name": name,
        "licence": "Apache-2.0",
        **use,
        "data": "diffusers_ext.zoo.world.render, seed below; no held-out pair drawn, "
        "no held-out triple named",
        "seed": begun["seed"],
        **({"start": begun["start"]} if begun.get("start") else {}),
        "config": asdict(replace(objective.recipe, samples=schedule.total)),
        "schedule": asdict(schedule),
        "steps": state["step"],
        "samples": state["step"] * objective.recipe.batch,
        "hours": round(state["seconds"] / 3600, 2),
        "hardware": hardware(),
        "precision": f"{PRECISION[precision()]}fp32 weights and average; stored as fp16",
        **facts,
        "torch": torch.__version__,
        "sha256": checksums(weight_files(out), out),
    }
    write_text(out / CARD, json.dumps(card, indent=2) + "\n")


def save_half(pipe: DiffusionPipeline | PreTrainedModel, out: Path) -> None:
    """Save fp16 weights with configs that say float32, so that a bare load computes in float32."""
    import torch
    from safetensors.torch import load_file, save_file

    if out.exists():
        for file in weight_files(out):
            file.unlink()
    for part in getattr(pipe, "components", {}).values():
        if hasattr(part, "backend_tokenizer"):  # it keeps the padding of its last call, also in its file
            part.backend_tokenizer.no_padding()
    pipe.save_pretrained(out)
    for file in weight_files(out):
        tensors = load_file(file)
        half = {k: v.half() if v.dtype == torch.float32 else v for k, v in tensors.items()}
        if not all(torch.isfinite(v).all() for v in half.values()):
            raise ValueError(
                f"fp16 holds values up to 65504, {file.parent.name}/{file.name} has larger ones; train again"
            )
        save_file(half, file, metadata={"format": "pt"})
    for file in (*out.glob("config.json"), *out.glob("*/config.json")):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:  # a path of the machine that trained
            write_text(file, json.dumps(config, indent=2) + "\n")
    shutil.rmtree(out / ".cache", ignore_errors=True)


def share(folder: Path, lender: str) -> list[str]:
    """Remove the components of a pipeline that equal those of `lender`, a model of the zoo.

    Components are equal if all their files are. Their folders in `folder` are removed, and the card names the
    lender. Returns the names of the components.

    `diffusers_ext.load` loads such a folder. The stock class can load the lender's folder with the component
    of this model passed in. Raises `ValueError` if nothing is the same.
    """
    home = path(lender)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    parts = [p for p in index if (folder / p).is_dir() and _same(folder / p, home / p)]
    if not parts:
        raise ValueError(
            f"{folder} can share what is equal to a component of {lender}, none is; keep the folder whole"
        )
    facts = json.loads((folder / CARD).read_text())
    sums = facts.pop("sha256")
    write_text(folder / CARD, json.dumps({**facts, "shares": lender, "sha256": sums}, indent=2) + "\n")
    for part in parts:
        shutil.rmtree(folder / part)
    return parts


def _same(one: Path, other: Path) -> bool:
    """Return whether two folders hold files of equal names and contents."""
    names = [sorted(f.name for f in home.iterdir()) if home.is_dir() else None for home in (one, other)]
    return names[0] == names[1] and not any(cmpfiles(one, other, names[0], shallow=False)[1:])


def thin(lines: list[dict[str, Any]], limit: int) -> Iterable[dict[str, Any]]:
    """Keep the first steps, every evaluation, the last line and evenly chosen others, about `limit` lines."""
    kept = {i for i, line in enumerate(lines) if line["step"] <= FULL_LOG or "loss" not in line}
    others = [i for i in range(len(lines)) if i not in kept]
    stride = -(-len(others) // max(limit - len(kept) - 1, 1)) or 1
    chosen = {*kept, *others[::stride], len(lines) - 1} if lines else set()
    return [lines[i] for i in sorted(chosen)]
