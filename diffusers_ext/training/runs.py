"""List the runs of the zoo: what each one is made of, and how each kind of run is carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from ..zoo.cards import sha256
from ..zoo.catalogue import MODELS
from . import provenance
from .components import FILE, VAE, WAN_VAE, autoencoder, cache, taken_from_start, teacher_of
from .fit import Run
from .machine import compiles

PROBE = 400  # pictures or clips on which an autoencoder is measured for the card


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan lists what the run of a model is made of; each kind of run reads the entries that it needs."""

    kind: Callable[[str, Plan, Path, Run], Path]  # carries out the run and returns the folder of the model
    module: str  # name of a module in objectives/
    objective: str  # name of a class in that module
    autoencoder: str = VAE  # encodes the pictures that the model learns on
    teacher: tuple[str, str] | None = None  # a model, and its component that teaches
    reader: str | None = None  # the model that the text encoder learns from if the run has no start
    facts: Mapping[str, Any] = field(default_factory=dict)  # entries of the card

    def code(self) -> ModuleType:
        """Import the module of the objective, which takes seconds."""
        return import_module(f".objectives.{self.module}", __package__)


def _autoencoder(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train an autoencoder, which is written when its run is complete."""
    from .fit import fit

    _no_start(name, how, "the seed alone")
    objective, folder = getattr(plan.code(), plan.objective)(seed=how.seed), out / name
    if fit(objective, folder, how):
        objective.export(folder)
    return folder


def _denoiser(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train a pipeline on what its autoencoder encodes."""
    from .export import export
    from .fit import fit

    folder, (vae, mark) = out / name, autoencoder(out, plan.autoencoder)
    objective = getattr(plan.code(), plan.objective)(
        vae,
        cache(folder, how, mark),
        start=how.start,
        given=taken_from_start(folder) if how.resume else (),
        seed=how.seed,
        compile=compiles(),
    )
    begun = provenance.of_start(how.start, objective.trained)
    fit(objective, folder, how, {"autoencoder": mark, "start": begun})
    facts = dict(plan.facts)
    if plan.reader and not taken_from_start(folder):
        facts["text_encoder"] = {"start": plan.reader, "sha256": provenance.of_text(plan.reader)}
    facts["autoencoder"] = RUNS[plan.autoencoder].code().measure(vae.to("cpu"), PROBE)
    export(objective, folder, folder, name, **facts)
    return folder


def _student(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train a pipeline that learns from a component of another one."""
    from diffusers import DiffusionPipeline

    from .export import export
    from .fit import fit

    _no_start(name, how, "its teacher")
    teacher, part = plan.teacher
    source, folder = teacher_of(name, teacher, out), out / name
    mark = sha256(source / part / FILE)
    objective = getattr(plan.code(), plan.objective)(
        DiffusionPipeline.from_pretrained(source),
        cache(folder, how, mark),
        seed=how.seed,
        compile=compiles(),
    )
    origin = {"teacher": {"name": teacher, part: mark}}
    fit(objective, folder, how, origin)
    export(objective, folder, folder, name, **plan.facts, **origin)
    return folder


def _reward(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train a reward, which is written together with its processor."""
    from .export import export
    from .fit import fit

    folder, (vae, mark) = out / name, autoencoder(out, plan.autoencoder)
    objective = getattr(plan.code(), plan.objective)(vae, start=how.start, seed=how.seed)
    fit(objective, folder, how, {"autoencoder": mark, "start": provenance.of_start(how.start)})
    export(objective, folder, folder, name)
    objective.processor.tokenizer.backend_tokenizer.no_padding()  # else it keeps the padding of its last call
    objective.processor.save_pretrained(folder)
    return folder


def _no_start(name: str, how: Run, begins: str) -> None:
    if how.start is not None:
        raise ValueError(f"{name} starts from {begins}, got the start {how.start}; leave it out")


RUNS: Mapping[str, Plan] = MappingProxyType(
    {
        VAE: Plan(kind=_autoencoder, module="vae", objective="VAEObjective"),
        WAN_VAE: Plan(kind=_autoencoder, module="wan_vae", objective="WanVAEObjective"),
        "shapes-wan": Plan(
            kind=_denoiser,
            module="wan",
            objective="WanObjective",
            autoencoder=WAN_VAE,
            reader="shapes-clip",
            facts={
                "data": "diffusers_ext.zoo.world.clips, seed below; no held-out object drawn, "
                "no held-out motion shown",
                "tasks": list(MODELS["shapes-wan"].tasks),
            },
        ),
        "shapes-sd3": Plan(kind=_denoiser, module="sd3", objective="SD3Objective"),
        "shapes-sd3-256": Plan(
            kind=_student,
            module="sd3_fine",
            objective="SD3FineObjective",
            teacher=("shapes-sd3", "transformer"),
        ),
        "shapes-sd": Plan(kind=_denoiser, module="sd", objective="SDObjective", reader="shapes-clip"),
        "shapes-sd-turbo": Plan(
            kind=_student,
            module="turbo",
            objective="TurboObjective",
            teacher=("shapes-sd", "unet"),
            facts={"data": "captions of the training stream, seed below, and the teacher's answers to them"},
        ),
        "shapes-clip": Plan(kind=_reward, module="clip", objective="CLIPObjective"),
    }
)
