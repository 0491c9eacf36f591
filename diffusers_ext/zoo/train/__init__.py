"""Training of the zoo's models on the shapes world, by our own code, on any machine."""

from __future__ import annotations

from pathlib import Path

from .fit import Run
from .runs import BUILDERS

TRAINABLE = tuple(BUILDERS)


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
    that stops early (`minutes`, which count from the call, or SIGTERM) writes what it has. `samples` sets the
    length of the run anew, `batch` the samples of a step; `decay_now` lets the learning rate fall to
    nothing from here to there. Where there is no checkpoint, `start` names a saved pipeline (such as the
    shipped one), or parts of one, whose weights the run begins with, with a fresh optimizer; resuming, it may
    be left out.
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
