"""A run of each model of the zoo: its objective, what it begins with, and what its card says of that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards import sha256
from ..catalogue import WEIGHTS
from . import identity
from .fit import Run
from .parts import FILE, VAE, as_shipped, autoencoder, cache, compiles, given, teacher_of, trained

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLWan

    from .diffusion import StreamObjective
    from .sd3_fine import SD3FineObjective
    from .turbo import TurboObjective
    from .vae import VAEObjective

WAN_VAE = "shapes-wan-vae"
TEACHER, COARSE = "shapes-sd", "shapes-sd3"  # of shapes-sd-turbo and of shapes-sd3-256
READER = "shapes-clip"  # as it reads, text encoders begin
PROBE = 400  # pictures or clips on which an autoencoder is measured for the card


def _vae(out: Path, how: Run, start: Path | None) -> Path:
    from .vae import VAEObjective

    return _from_scratch(VAE, VAEObjective, out, how, start)


def _wan_vae(out: Path, how: Run, start: Path | None) -> Path:
    from .wan_vae import WanVAEObjective

    return _from_scratch(WAN_VAE, WanVAEObjective, out, how, start)


def _from_scratch(
    name: str, objective_class: type[VAEObjective], out: Path, how: Run, start: Path | None
) -> Path:
    """An autoencoder, which is written when its run is complete."""
    from .fit import fit

    _no_start(name, start)
    objective, folder = objective_class(seed=how.seed), out / name
    if fit(objective, folder, how):
        objective.export(folder)
    return folder


def _sd3(out: Path, how: Run, start: Path | None) -> Path:
    from .sd3 import SD3Objective
    from .vae import measure

    return _denoiser(SD3Objective, *autoencoder(out), measure, out, how, start)


def _sd3_fine(out: Path, how: Run, start: Path | None) -> Path:
    from .sd3_fine import SD3FineObjective

    return _student(SD3FineObjective, COARSE, "transformer", out, how, start)


def _sd(out: Path, how: Run, start: Path | None) -> Path:
    from .sd import SDObjective
    from .vae import measure

    return _denoiser(SDObjective, *autoencoder(out), measure, out, how, start, reader=READER)


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
    source, folder = teacher_of(name, teacher, out), out / name
    mark = sha256(source / part / FILE)
    objective = objective_class(
        DiffusionPipeline.from_pretrained(source),
        cache(folder, how, mark),
        seed=how.seed,
        compile=compiles(),
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

    folder = out / objective_class.name
    objective = objective_class(
        vae,
        cache(folder, how, mark),
        start=start,
        given=given(folder) if how.resume else (),
        seed=how.seed,
        compile=compiles(),
    )
    began = identity.of_start(start, objective.trained)
    fit(objective, folder, how, {"autoencoder": mark, "start": began})
    if reader and not given(folder):
        facts["text_encoder"] = {"start": reader, "sha256": identity.of_text(reader)}
    facts["autoencoder"] = measure(vae.to("cpu"), PROBE)
    export(objective, folder, folder, objective.name, **facts)
    return folder


def _clip(out: Path, how: Run, start: Path | None) -> Path:
    from .clip import CLIPObjective
    from .export import export
    from .fit import fit

    folder = out / "shapes-clip"
    vae, mark = autoencoder(out)
    objective = CLIPObjective(vae, start=start, seed=how.seed)
    fit(objective, folder, how, {"autoencoder": mark, "start": identity.of_start(start)})
    export(objective, folder, folder, "shapes-clip")
    objective.processor.tokenizer.backend_tokenizer.no_padding()  # else it keeps that of its last call
    objective.processor.save_pretrained(folder)
    return folder


def _wan(out: Path, how: Run, start: Path | None) -> Path:
    from diffusers import AutoencoderKLWan

    from ..suites import VIDEO_TASKS
    from .wan import WanObjective
    from .wan_vae import measure

    home = trained(WAN_VAE, out / WAN_VAE / "vae", WEIGHTS / WanObjective.name / "vae")
    vae = as_shipped(AutoencoderKLWan, home)
    facts = {
        "data": "diffusers_ext.zoo.clips, seed below; no held-out object drawn, no held-out motion shown",
        "tasks": list(VIDEO_TASKS),
    }
    mark = sha256(home / FILE)
    return _denoiser(WanObjective, vae, mark, measure, out, how, start, reader=READER, **facts)


def _no_start(name: str, start: Path | None, begins: str = "the seed alone") -> None:
    if start is not None:
        raise ValueError(f"{name} starts from {begins}, got the start {start}; leave it out")


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
