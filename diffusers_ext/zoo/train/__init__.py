"""Training of the zoo's models on the shapes world, by our own code, on any machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import MODELS, WEIGHTS, checksums, path, weight_files
from .fit import Run

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from .diffusion import StreamObjective

VAE, WAN_VAE = "shapes-vae", "shapes-wan-vae"
TEACHER = "shapes-sd"  # of shapes-sd-turbo


def run(
    name: str,
    out: Path | None = None,
    minutes: float | None = None,
    samples: int | None = None,
    threads: int | None = None,
    resume: bool = True,
    seed: int = 0,
    decay_now: bool = False,
    start: Path | None = None,
    batch: int | None = None,
) -> Path:
    """Train `name` in the folder `out`/`name` and write the model there; returns that folder.

    An interrupted run goes on from its checkpoint. Image models take their autoencoder from `out`/shapes-vae
    when that was trained, else from the shipped weights, `shapes-wan` likewise from shapes-wan-vae; a run
    that stops early (`minutes`, SIGTERM) writes what it has. `samples` sets the length of the run anew,
    `batch` the samples of a step; `decay_now` lets the learning rate fall to nothing from here to there.
    Where there is no checkpoint, `start` names a saved pipeline (such as the shipped one), or parts of one,
    whose weights the run begins with, with a fresh optimizer.
    """
    if name not in TRAINABLE:
        raise ValueError(f"unknown model {name!r}; train one of {', '.join(TRAINABLE)}")
    use_threads(threads)
    out = Path(out or "runs")
    return BUILDERS[name](out, Run(minutes, samples, decay_now, resume, seed, batch=batch), start)


def use_threads(threads: int | None) -> None:
    """Let torch compute on so many CPU threads; `None` leaves it all cores."""
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(
            f"the number of threads must be at least 1, got {threads}; leave it out for all cores"
        )
    torch.set_num_threads(threads)


def _vae(out: Path, how: Run, start: Path | None) -> Path:
    from .fit import fit
    from .vae import VAEObjective

    objective, folder = VAEObjective(seed=how.seed), out / VAE
    if fit(objective, folder, how):
        objective.export(folder)
    return folder


def _sd3(out: Path, how: Run, start: Path | None) -> Path:
    from .sd3 import SD3Objective

    return _denoiser(SD3Objective, out, how, start)


def _sd(out: Path, how: Run, start: Path | None) -> Path:
    from .sd import SDObjective

    begun = {} if start is not None else {"text_encoder": _mark(path("shapes-clip"))}
    return _denoiser(SDObjective, out, how, start, **begun)


def _turbo(out: Path, how: Run, start: Path | None) -> Path:
    if start is not None:
        raise ValueError(f"shapes-sd-turbo starts from its teacher, got the start {start}; leave it out")
    from diffusers import StableDiffusionPipeline

    from .export import export
    from .fit import fit
    from .turbo import TurboObjective

    source, folder = _teacher(out), out / TurboObjective.name
    mark = checksums(weight_files(source), source)["unet/diffusion_pytorch_model.safetensors"]
    objective = TurboObjective(
        StableDiffusionPipeline.from_pretrained(source),
        dict(MODELS[TEACHER].call),
        _cache(folder, how) / mark[:12],  # pairs of one teacher never serve another
        seed=how.seed,
        compile=_compiler(),
    )
    fit(objective, folder, how)
    facts = {
        "data": "captions of the training stream, seed below, and the teacher's answers to them",
        "teacher": {"name": TEACHER, "unet": mark},
    }
    export(objective, folder, folder, objective.name, **facts)
    return folder


def _denoiser(
    objective_class: type[StreamObjective], out: Path, how: Run, start: Path | None, **facts: Any
) -> Path:
    from .export import export
    from .fit import fit
    from .vae import measure

    vae, folder = _autoencoder(out), out / objective_class.name
    objective = objective_class(vae, _cache(folder, how), start=start, seed=how.seed, compile=_compiler())
    fit(objective, folder, how)
    export(objective, folder, folder, objective_class.name, autoencoder=measure(vae, 400), **facts)
    return folder


def _clip(out: Path, how: Run, start: Path | None) -> Path:
    from .clip import CLIPObjective
    from .export import export
    from .fit import fit

    folder = out / "shapes-clip"
    objective = CLIPObjective(_autoencoder(out), seed=how.seed)
    fit(objective, folder, how)
    export(objective, folder, folder, "shapes-clip")
    objective.processor.save_pretrained(folder)
    return folder


def _wan_vae(out: Path, how: Run, start: Path | None) -> Path:
    from .fit import fit
    from .wan_vae import WanVAEObjective

    objective, folder = WanVAEObjective(seed=how.seed), out / WAN_VAE
    if fit(objective, folder, how):
        objective.export(folder)
    return folder


def _wan(out: Path, how: Run, start: Path | None) -> Path:
    import torch
    from diffusers import AutoencoderKLWan

    from ..suites import VIDEO_TASKS
    from .export import export
    from .fit import fit
    from .wan import WanObjective
    from .wan_vae import measure

    home = _trained(WAN_VAE, out / WAN_VAE / "vae", WEIGHTS / WanObjective.name / "vae")
    vae = AutoencoderKLWan.from_pretrained(home, torch_dtype=torch.float32)
    folder = out / WanObjective.name
    # Latents belong to one autoencoder, and this one is trained anew more often than others.
    mark = checksums(weight_files(home.parent), home.parent)["vae/diffusion_pytorch_model.safetensors"]
    objective = WanObjective(
        vae, _cache(folder, how) / mark[:12], start=start, seed=how.seed, compile=_compiler()
    )
    fit(objective, folder, how)
    facts = {
        "data": "diffusers_ext.zoo.clips, seed below; no held-out object drawn, no held-out motion shown",
        "tasks": list(VIDEO_TASKS),
        "autoencoder": measure(vae, 400),
    }
    export(objective, folder, folder, objective.name, **facts)
    return folder


BUILDERS = {
    VAE: _vae,
    WAN_VAE: _wan_vae,
    "shapes-wan": _wan,
    "shapes-sd3": _sd3,
    "shapes-sd": _sd,
    "shapes-sd-turbo": _turbo,
    "shapes-clip": _clip,
}
TRAINABLE = tuple(BUILDERS)


def _mark(folder: Path) -> dict[str, str]:
    """What a run began with besides its seed, for the card."""
    return {"start": folder.name, "sha256": checksums(weight_files(folder), folder)["model.safetensors"]}


def _cache(folder: Path, how: Run) -> Path:
    """Where a run keeps what it draws, which depends on the seed."""
    return folder / "cache" / f"seed-{how.seed}"


def _compiler() -> bool:
    """Whether torch.compile can build its CPU code here."""
    return shutil.which("g++") is not None


def _teacher(out: Path) -> Path:
    for folder in (out / TEACHER, WEIGHTS / TEACHER):
        if (folder / "model_index.json").is_file():
            return folder
    raise FileNotFoundError(
        f"shapes-sd-turbo needs its trained teacher in {out / TEACHER}; "
        f"run 'diffusers-ext train {TEACHER}' first"
    )


def _autoencoder(out: Path) -> AutoencoderKL:
    import torch
    from diffusers import AutoencoderKL

    folder = _trained(VAE, out / VAE / "vae", path("shapes-sd3") / "vae")
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)


def _trained(name: str, *folders: Path) -> Path:
    """The first folder that holds a model, trained here or shipped."""
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"this model needs a trained autoencoder in {folders[0]}; run 'diffusers-ext train {name}' first"
    )
