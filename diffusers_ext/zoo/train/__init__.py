"""Training of the zoo's models on the shapes world, by our own code, on any machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .. import MODELS, path

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

VAE = "shapes-vae"
TRAINABLE = (VAE, *MODELS)


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
) -> Path:
    """Train `name` in the folder `out`/`name` and write the model there; returns that folder.

    An interrupted run goes on from its checkpoint. `shapes-sd3` takes its autoencoder from `out`/shapes-vae
    when that was trained, else from the shipped weights; a run that stops early (`minutes`, SIGTERM) writes
    what it has. `samples` sets the length of the run anew; `decay_now` lets the learning rate fall to nothing
    from here to there. Where there is no checkpoint, `start` names a saved pipeline (such as the shipped one)
    whose weights the run begins with, with a fresh optimizer.
    """
    if name not in TRAINABLE:
        raise ValueError(f"unknown model {name!r}; train one of {', '.join(TRAINABLE)}")
    import torch

    if threads is not None:
        if threads < 1:
            raise ValueError(
                f"the number of threads must be at least 1, got {threads}; leave it out for all cores"
            )
        torch.set_num_threads(threads)
    out = Path(out or "runs")
    folder = out / name
    common = {"minutes": minutes, "resume": resume, "seed": seed}
    if name == VAE:
        from .config import VAEConfig
        from .vae import train_vae

        train_vae(folder, VAEConfig(samples=samples) if samples else None, **common)
        return folder
    from .export import export_sd3
    from .sd3 import train_sd3

    vae = _autoencoder(out)
    compiler = shutil.which("g++") is not None
    train_sd3(folder, vae, samples=samples, decay_now=decay_now, start=start, compile=compiler, **common)
    export_sd3(folder, vae, folder)
    return folder


def _autoencoder(out: Path) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    for folder in (out / VAE / "vae", path("shapes-sd3") / "vae"):
        if (folder / "config.json").is_file():
            import torch

            return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    raise FileNotFoundError(
        f"shapes-sd3 needs a trained autoencoder in {out / VAE / 'vae'}; "
        f"run 'diffusers-ext train {VAE}' first"
    )
