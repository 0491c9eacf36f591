"""Distil a sparse attention method: from a model of shapes world to a student that runs with the method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..outputs.files import write_json
from ..zoo.cards import CARD, checksums, weight_files
from .export import export
from .fit import Run, fit

if TYPE_CHECKING:
    from ..processors.clear import CLEAR

METHOD = "clear"
POOLED = "far.safetensors"  # the file name that the preset beside it refers to


def run(teacher: str, settings: Sequence[str], out: Path, how: Run | None = None) -> Path:
    """Distil `teacher` for CLEAR with `settings` (`key=value`) and write the student to the folder `out`.

    The student is a stock pipeline; `clear.json` beside it holds the settings that it needs. An interrupted
    run writes what it has, and goes on from its checkpoint. Raises `ValueError` for settings and teachers
    that do not fit, or differ from the run in `out`. Raises `OSError` if a folder cannot be read.
    """
    from ..settings.methods import build

    how = how or Run()
    (method,) = build((METHOD,), settings)
    home, pipe, call = open_teacher(teacher)
    if out.resolve() == home.resolve():
        raise ValueError(
            f"the student would be written over its teacher in {out}; choose another folder with --out"
        )
    method = trainable(method, pipe)
    marks = checksums(weight_files(home), home)
    mark, vae = (marks[f"{part}/diffusion_pytorch_model.safetensors"] for part in ("transformer", "vae"))
    facts = {"teacher": {"name": teacher, "transformer": mark}, "method": method_facts(method)}

    from .objectives.clear import DistilObjective

    # Latents belong to one autoencoder.
    objective = DistilObjective(pipe, method, out / "cache" / f"seed-{how.seed}" / vae[:12], seed=how.seed)
    try:
        fit(objective, out, how, {"autoencoder": vae, **facts})
    finally:
        objective.close()
    data = "pictures of diffusers_ext.zoo.world.render, seed below, as the teacher's"
    export(objective, out, out, METHOD, **facts, call=call, data=data)
    preset = {key: value for key, value in facts["method"].items() if key != "name"}
    if objective.pooled:
        _write_pooled(objective, out)
        preset["weights"] = POOLED
    write_json(out / f"{METHOD}.json", {"settings": preset})
    return out


def open_teacher(name: str) -> tuple[Path, Any, dict[str, Any]]:
    """Open a teacher; return its folder, its pipeline in float32 and its call defaults.

    Raises `ValueError` for anything but a joint-attention model of shapes world, since the student learns on
    pictures of that world.
    """
    import torch

    from ..models.checkpoint import Checkpoint
    from ..zoo.models.tokenizer import build_tokenizer

    model = Checkpoint.resolve(name)
    pipe = model.read(dtype=torch.float32) if model.folder is not None else None
    known = build_tokenizer().get_vocab()
    ours = type(pipe).__name__ == "StableDiffusion3Pipeline" and pipe.tokenizer.get_vocab() == known
    if not ours or "call" not in model.card:
        came = "a model of the Hub" if pipe is None else f"a {type(pipe).__name__}"
        raise ValueError(
            "distillation draws its pictures from the shapes world and takes shapes-sd3 or a folder that "
            f"'train shapes-sd3' or 'train {METHOD}' wrote, got {came} ({name!r}); give one of these with "
            "--teacher"
        )
    pipe.set_progress_bar_config(disable=True)
    return model.folder, pipe, model.card["call"]


def trainable(method: CLEAR, pipe: Any) -> CLEAR:
    """Return the method with a back-end that has gradients and never stays dense by itself.

    Raises `ValueError` if the method would hide nothing, or if some steps would stay dense.
    """
    import torch

    from ..kernels.block_sparse.capabilities import Request, choose

    if method.dense_steps:
        raise ValueError(
            f"a student learns all steps alike, got dense_steps={method.dense_steps}; leave it out here and "
            "set it when you generate"
        )
    if method.backend == "flex":
        raise ValueError("the FlexAttention back-end is not for training; leave backend out")
    model = pipe.transformer.config
    side = model.sample_size // model.patch_size
    grid = (1, side, side)
    spec = method.plan_spec(grid)
    if spec.pairs == side**4 and not method.downsample:
        tiles = method.reduce == "block"
        raise ValueError(
            f"a radius of {method.radius}{' in whole tiles' * tiles} covers the grid of {side} x {side} "
            "tokens, so there is nothing to distil; "
            + ("use reduce=token" if tiles else "choose a smaller one, 2 or 3 for instance")
        )
    if (why := method.refuses(grid)) is not None:
        raise ValueError(why)
    if method.backend != "auto":
        return method
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    blocks = spec.block_q, spec.block_k
    choice = choose(Request(device, torch.bfloat16, model.attention_head_dim, blocks))
    return replace(method, backend=choice.name)


def method_facts(method: CLEAR) -> dict[str, Any]:
    """Return name and settings as JSON data, without the file of weights that a run may begin with."""
    from ..settings.methods import as_dict

    return {k: v for k, v in as_dict(method).items() if k != "weights"}


def _write_pooled(objective: Any, out: Path) -> None:
    from ..processors.sparse import pooled

    pooled.write(out / POOLED, objective.pooled, objective.method.downsample)
    card = json.loads((out / CARD).read_text())
    card["sha256"] = checksums(weight_files(out), out)
    write_json(out / CARD, card)
