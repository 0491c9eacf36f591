"""Find the models that a run builds on, trained here or shipped, and the folder of its data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..zoo.cards import sha256
from ..zoo.catalogue import WEIGHTS
from . import provenance
from .fit import Run
from .plans import VAE, WAN_VAE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLWan

AUTOENCODERS = {VAE: ("AutoencoderKL", "shapes-sd3"), WAN_VAE: ("AutoencoderKLWan", "shapes-wan")}
FILE = "diffusion_pytorch_model.safetensors"


def cache(folder: Path, how: Run, mark: str) -> Path:
    """Return the folder in which a run keeps the samples that it makes.

    The samples depend on the seed and on the model with the checksum `mark`.
    """
    return folder / "cache" / f"seed-{how.seed}" / mark[:12]


def taken_from_start(folder: Path) -> frozenset[str]:
    """Return the components whose weights the run in `folder` took from its start.

    Without a run there are none.
    """
    from .checkpoint import load_checkpoint

    checkpoint = folder / "checkpoint.pt"
    start = provenance.of(load_checkpoint(checkpoint)).get("start") if checkpoint.exists() else None
    return frozenset(name.partition("/")[0] for name in (start or {}).get("sha256", ()))


def teacher_of(student: str, name: str, out: Path) -> Path:
    """Find the folder of the model `name`, trained in `out` or shipped."""
    for folder in (out / name, WEIGHTS / name):
        if (folder / "model_index.json").is_file():
            return folder
    raise FileNotFoundError(
        f"{student} needs its trained teacher in {out / name}; run 'diffusers-ext train {name}' first"
    )


def autoencoder(out: Path, name: str = VAE) -> tuple[AutoencoderKL | AutoencoderKLWan, str]:
    """Load the autoencoder `name`, trained in `out` or shipped, and return it with its checksum.

    Its weights are rounded to the fp16 that is shipped, in fp32. A rerun from the shipped folder sees the
    same latents, and so has the same losses.
    """
    import diffusers
    import torch

    kind, shipped_in = AUTOENCODERS[name]
    trained = out / name / "vae"
    for home in (trained, WEIGHTS / shipped_in / "vae"):
        if (home / "config.json").is_file():
            vae = getattr(diffusers, kind).from_pretrained(home, torch_dtype=torch.float16).float()
            return vae, sha256(home / FILE)
    raise FileNotFoundError(
        f"this model needs a trained autoencoder in {trained}; run 'diffusers-ext train {name}' first"
    )
