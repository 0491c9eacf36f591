"""Training of the zoo's models on the shapes world, by our own code, on any machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import MODELS, WEIGHTS, path
from . import identity
from .fit import Run

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLWan

    from .diffusion import StreamObjective

VAE, WAN_VAE = "shapes-vae", "shapes-wan-vae"
TEACHER = "shapes-sd"  # of shapes-sd-turbo
READER = "shapes-clip"  # as it reads, text encoders begin
FILE = "diffusion_pytorch_model.safetensors"
PROBE = 400  # pictures or clips on which an autoencoder is measured for the card


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

    An interrupted run goes on from its checkpoint, if seed, autoencoder and the like are still those that it
    began with, and raises `ValueError` otherwise. Image models take their autoencoder from `out`/shapes-vae
    when that was trained, else from the shipped weights, `shapes-wan` likewise from shapes-wan-vae; a run
    that stops early (`minutes`, SIGTERM) writes what it has. `samples` sets the length of the run anew,
    `batch` the samples of a step; `decay_now` lets the learning rate fall to nothing from here to there.
    Where there is no checkpoint, `start` names a saved pipeline (such as the shipped one), or parts of one,
    whose weights the run begins with, with a fresh optimizer; resuming, it may be left out.
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
    from .vae import measure

    return _denoiser(SD3Objective, *_autoencoder(out), measure, out, how, start)


def _sd(out: Path, how: Run, start: Path | None) -> Path:
    from .sd import SDObjective
    from .vae import measure

    return _denoiser(SDObjective, *_autoencoder(out), measure, out, how, start, reader=READER)


def _turbo(out: Path, how: Run, start: Path | None) -> Path:
    if start is not None:
        raise ValueError(f"shapes-sd-turbo starts from its teacher, got the start {start}; leave it out")
    from diffusers import StableDiffusionPipeline

    from .export import export
    from .fit import fit
    from .turbo import TurboObjective

    source, folder = _teacher(out), out / TurboObjective.name
    mark = identity.checksum(source / "unet" / FILE)
    objective = TurboObjective(
        StableDiffusionPipeline.from_pretrained(source),
        dict(MODELS[TEACHER].call),
        _cache(folder, how, mark),
        seed=how.seed,
        compile=_compiler(),
    )
    teacher = {"name": TEACHER, "unet": mark}
    fit(objective, folder, how, {"teacher": teacher})
    data = "captions of the training stream, seed below, and the teacher's answers to them"
    export(objective, folder, folder, objective.name, data=data, teacher=teacher)
    return folder


def _denoiser(
    objective_class: type[StreamObjective],
    vae: AutoencoderKL | AutoencoderKLWan,
    mark: str,
    measure: Callable[..., dict[str, float]],
    out: Path,
    how: Run,
    start: Path | None,
    reader: str | None = None,
    **facts: Any,
) -> Path:
    """`mark` is the checksum of `vae`, `reader` the model that the text encoder learned from where the run
    has no `start`; `facts` are entries of the card."""
    from .export import export
    from .fit import fit
    from .loop import load_checkpoint

    folder = out / objective_class.name
    objective = objective_class(
        vae, _cache(folder, how, mark), start=start, seed=how.seed, compile=_compiler()
    )
    began = identity.of_start(start, objective.trained)
    fit(objective, folder, how, {"autoencoder": mark, "start": began})
    if reader and not identity.of(load_checkpoint(folder / "checkpoint.pt")).get("start"):
        sha256 = identity.checksum(path(reader) / "model.safetensors")
        facts["text_encoder"] = {"start": reader, "sha256": sha256}
    facts["autoencoder"] = measure(vae.to("cpu"), PROBE)
    export(objective, folder, folder, objective.name, **facts)
    return folder


def _clip(out: Path, how: Run, start: Path | None) -> Path:
    from .clip import CLIPObjective
    from .export import export
    from .fit import fit

    folder = out / "shapes-clip"
    vae, mark = _autoencoder(out)
    objective = CLIPObjective(vae, start=start, seed=how.seed)
    fit(objective, folder, how, {"autoencoder": mark, "start": identity.of_start(start)})
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
    from diffusers import AutoencoderKLWan

    from ..suites import VIDEO_TASKS
    from .wan import WanObjective
    from .wan_vae import measure

    home = _trained(WAN_VAE, out / WAN_VAE / "vae", WEIGHTS / WanObjective.name / "vae")
    vae = _as_shipped(AutoencoderKLWan, home)
    facts = {
        "data": "diffusers_ext.zoo.clips, seed below; no held-out object drawn, no held-out motion shown",
        "tasks": list(VIDEO_TASKS),
    }
    mark = identity.checksum(home / FILE)
    return _denoiser(WanObjective, vae, mark, measure, out, how, start, reader=READER, **facts)


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


def _cache(folder: Path, how: Run, mark: str) -> Path:
    """Where a run keeps what it draws, which depends on the seed and the model with the checksum `mark`."""
    return folder / "cache" / f"seed-{how.seed}" / mark[:12]


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


def _autoencoder(out: Path) -> tuple[AutoencoderKL, str]:
    """The autoencoder of the image models and its checksum."""
    from diffusers import AutoencoderKL

    home = _trained(VAE, out / VAE / "vae", path("shapes-sd3") / "vae")
    return _as_shipped(AutoencoderKL, home), identity.checksum(home / FILE)


def _as_shipped(kind: type[Any], home: Path) -> Any:
    """An autoencoder rounded to the fp16 that is shipped, in fp32: latents are those that a rerun from the
    shipped folder sees, and so are its losses."""
    import torch

    return kind.from_pretrained(home, torch_dtype=torch.float16).float()


def _trained(name: str, *folders: Path) -> Path:
    """The first folder that holds a model, trained here or shipped."""
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"this model needs a trained autoencoder in {folders[0]}; run 'diffusers-ext train {name}' first"
    )
