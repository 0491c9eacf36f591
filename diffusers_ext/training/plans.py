"""List what the run of each model is made of, in a table that is cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any, Literal

from ..zoo.catalogue import MODELS

VAE, WAN_VAE = "shapes-vae", "shapes-wan-vae"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan lists what the run of a model is made of; each kind of run reads the entries that it needs."""

    kind: Literal["autoencoder", "denoiser", "student", "reward", "noise-aware"]  # how `runs` carries it out
    module: str  # name of a module in objectives/
    objective: str  # name of a class in that module
    autoencoder: str = VAE  # encodes the pictures that the model learns on
    teacher: tuple[str, str] | None = None  # a model, and its component that teaches
    reader: str | None = None  # the model that the text encoder learns from if the run has no start
    facts: Mapping[str, Any] = field(default_factory=dict)  # entries of the card

    def code(self) -> ModuleType:
        """Import the module of the objective, which takes seconds."""
        return import_module(f".objectives.{self.module}", __package__)


RUNS: Mapping[str, Plan] = MappingProxyType(
    {
        VAE: Plan(kind="autoencoder", module="vae", objective="VAEObjective"),
        WAN_VAE: Plan(kind="autoencoder", module="wan_vae", objective="WanVAEObjective"),
        "shapes-wan": Plan(
            kind="denoiser",
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
        "shapes-sd3": Plan(kind="denoiser", module="sd3", objective="SD3Objective"),
        "shapes-sd3-256": Plan(
            kind="student",
            module="sd3_fine",
            objective="SD3FineObjective",
            teacher=("shapes-sd3", "transformer"),
        ),
        "shapes-sd": Plan(kind="denoiser", module="sd", objective="SDObjective", reader="shapes-clip"),
        "shapes-sd-turbo": Plan(
            kind="student",
            module="turbo",
            objective="TurboObjective",
            teacher=("shapes-sd", "unet"),
            facts={"data": "captions of the training stream, seed below, and the teacher's answers to them"},
        ),
        "shapes-clip": Plan(kind="reward", module="clip", objective="CLIPObjective"),
        "shapes-clip-noise-aware": Plan(
            kind="noise-aware",
            module="noise_aware",
            objective="NoiseAwareObjective",
            teacher=("shapes-sd3", "transformer"),
            facts={"data": "train-like prompts, and pictures that shapes-sd3 draws for them"},
        ),
    }
)
