"""Training of the zoo's models on the shapes world, by our own code, on any machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import WEIGHTS, path, sha256
from . import identity
from .fit import Run

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLWan

    from .diffusion import StreamObjective
    from .sd3_fine import SD3FineObjective
    from .turbo import TurboObjective

VAE, WAN_VAE = "shapes-vae", "shapes-wan-vae"
TEACHER, COARSE = "shapes-sd", "shapes-sd3"  # of shapes-sd-turbo and of shapes-sd3-256
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

    _no_start(VAE, start)
    objective, folder = VAEObjective(seed=how.seed), out / VAE
    if fit(objective, folder, how):
        objective.export(folder)
    return folder


def _sd3(out: Path, how: Run, start: Path | None) -> Path:
    from .sd3 import SD3Objective
    from .vae import measure

    return _denoiser(SD3Objective, *_autoencoder(out), measure, out, how, start)


def _sd3_fine(out: Path, how: Run, start: Path | None) -> Path:
    from .sd3_fine import SD3FineObjective

    return _student(SD3FineObjective, COARSE, "transformer", out, how, start)


def _sd(out: Path, how: Run, start: Path | None) -> Path:
    from .sd import SDObjective
    from .vae import measure

    return _denoiser(SDObjective, *_autoencoder(out), measure, out, how, start, reader=READER)


def _turbo(out: Path, how: Run, start: Path | None) -> Path:
    from .turbo import TurboObjective

    data = "captions of the training stream, seed below, and the teacher's answers to them"
    return _student(TurboObjective, TEACHER, "unet", out, how, start, data=data)


def _student(
    objective_class: type[SD3FineObjective | TurboObjective],
    teacher: str,
    part: str,
    out: Path,
    how: Run,
    start: Path | None,
    **facts: Any,
) -> Path:
    """`part` of the model `teacher` is what it teaches; `facts` are entries of the card."""
    from diffusers import DiffusionPipeline

    from .export import export
    from .fit import fit

    name = objective_class.name
    _no_start(name, start, "its teacher")
    source, folder = _teacher(name, teacher, out), out / name
    mark = sha256(source / part / FILE)
    objective = objective_class(
        DiffusionPipeline.from_pretrained(source),
        _cache(folder, how, mark),
        seed=how.seed,
        compile=_compiler(),
    )
    origin = {"teacher": {"name": teacher, part: mark}}
    fit(objective, folder, how, origin)
    export(objective, folder, folder, name, **facts, **origin)
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
        facts["text_encoder"] = {"start": reader, "sha256": identity.of_text(reader)}
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
    objective.processor.tokenizer.backend_tokenizer.no_padding()  # else it keeps that of its last call
    objective.processor.save_pretrained(folder)
    return folder


def _wan_vae(out: Path, how: Run, start: Path | None) -> Path:
    from .fit import fit
    from .wan_vae import WanVAEObjective

    _no_start(WAN_VAE, start)
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
    mark = sha256(home / FILE)
    return _denoiser(WanObjective, vae, mark, measure, out, how, start, reader=READER, **facts)


BUILDERS = {
    VAE: _vae,
    WAN_VAE: _wan_vae,
    "shapes-wan": _wan,
    "shapes-sd3": _sd3,
    "shapes-sd3-256": _sd3_fine,
    "shapes-sd": _sd,
    "shapes-sd-turbo": _turbo,
    "shapes-clip": _clip,
}
TRAINABLE = tuple(BUILDERS)


def _no_start(name: str, start: Path | None, begins: str = "the seed alone") -> None:
    if start is not None:
        raise ValueError(f"{name} starts from {begins}, got the start {start}; leave it out")


def _cache(folder: Path, how: Run, mark: str) -> Path:
    """Where a run keeps what it draws, which depends on the seed and the model with the checksum `mark`."""
    return folder / "cache" / f"seed-{how.seed}" / mark[:12]


def _compiler() -> bool:
    """Whether torch.compile can build its CPU code here."""
    return shutil.which("g++") is not None


def _teacher(student: str, name: str, out: Path) -> Path:
    for folder in (out / name, WEIGHTS / name):
        if (folder / "model_index.json").is_file():
            return folder
    raise FileNotFoundError(
        f"{student} needs its trained teacher in {out / name}; run 'diffusers-ext train {name}' first"
    )


def _autoencoder(out: Path) -> tuple[AutoencoderKL, str]:
    """The autoencoder of the image models and its checksum."""
    from diffusers import AutoencoderKL

    home = _trained(VAE, out / VAE / "vae", path("shapes-sd3") / "vae")
    return _as_shipped(AutoencoderKL, home), sha256(home / FILE)


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
