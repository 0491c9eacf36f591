"""Train the zoo's models on shapes world, by our own code, on any machine."""

from __future__ import annotations

from pathlib import Path

from .fit import Run
from .runs import RUNS

TRAINABLE = tuple(RUNS)


def run(name: str, out: Path | None = None, how: Run | None = None) -> Path:
    """Train `name` in the folder `out`/`name` and write the model there; returns that folder.

    An interrupted run goes on from its checkpoint. It raises `ValueError` if its seed, its autoencoder or
    another origin is not what it began with. Image models take their autoencoder from `out`/shapes-vae if
    that was trained, else from the shipped weights. shapes-wan takes its own from shapes-wan-vae in the same
    way. A run that stops early, by `how.minutes` or SIGTERM, writes what it has.
    """
    if name not in RUNS:
        raise ValueError(f"unknown model {name!r}; train one of {', '.join(TRAINABLE)}")
    plan = RUNS[name]
    return plan.kind(name, plan, Path(out or "runs"), how or Run())
