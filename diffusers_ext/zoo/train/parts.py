"""What a run builds on: models that come before it, trained here or shipped, and where its data is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards import sha256
from ..catalogue import WEIGHTS, path
from . import identity
from .fit import Run

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

VAE = "shapes-vae"
FILE = "diffusion_pytorch_model.safetensors"


def cache(folder: Path, how: Run, mark: str) -> Path:
    """Where a run keeps what it draws, which depends on the seed and the model with the checksum `mark`."""
    return folder / "cache" / f"seed-{how.seed}" / mark[:12]


def given(folder: Path) -> frozenset[str]:
    """Components whose weights the run in `folder` was given at its start; none where there is no run."""
    from .loop import load_checkpoint

    checkpoint = folder / "checkpoint.pt"
    start = identity.of(load_checkpoint(checkpoint)).get("start") if checkpoint.exists() else None
    return frozenset(name.partition("/")[0] for name in (start or {}).get("sha256", ()))


def compiles() -> bool:
    """Whether torch.compile can build its CPU code here."""
    return shutil.which("g++") is not None


def teacher_of(student: str, name: str, out: Path) -> Path:
    """The folder of the model `name`, trained in `out` or shipped."""
    for folder in (out / name, WEIGHTS / name):
        if (folder / "model_index.json").is_file():
            return folder
    raise FileNotFoundError(
        f"{student} needs its trained teacher in {out / name}; run 'diffusers-ext train {name}' first"
    )


def autoencoder(out: Path) -> tuple[AutoencoderKL, str]:
    """The autoencoder of the image models and its checksum."""
    from diffusers import AutoencoderKL

    home = trained(VAE, out / VAE / "vae", path("shapes-sd3") / "vae")
    return as_shipped(AutoencoderKL, home), sha256(home / FILE)


def as_shipped(kind: type[Any], home: Path) -> Any:
    """An autoencoder rounded to the fp16 that is shipped, in fp32: latents are those that a rerun from the
    shipped folder sees, and so are its losses."""
    import torch

    return kind.from_pretrained(home, torch_dtype=torch.float16).float()


def trained(name: str, *folders: Path) -> Path:
    """The first folder that holds a model, trained here or shipped."""
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"this model needs a trained autoencoder in {folders[0]}; run 'diffusers-ext train {name}' first"
    )
