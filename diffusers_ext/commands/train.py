"""`diffusers-ext train`: one model of the zoo from a seed."""

from pathlib import Path
from typing import Annotated

import typer

from ..zoo.train import TRAINABLE


def train(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(TRAINABLE)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of runs; NAME is made in it.")] = Path(
        "runs"
    ),
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop after this time; resumable.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Length of the run, in pictures.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Samples a step; the recipe's suits a CPU, a GPU takes 512.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.")] = None,
    decay_now: Annotated[
        bool, typer.Option("--decay-now", help="Let the learning rate fall to nothing from here on.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume/--restart", help="Go on from the checkpoint.")] = True,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="Fixes data and noise.")] = "0",
) -> None:
    """Train a model of the zoo; interrupted runs go on where they stopped."""
    from ..call import seed_of
    from ..metadata import output_folder
    from ..zoo.train import run

    number = seed_of(seed)
    folder = output_folder(out)
    written = run(name, folder, minutes, samples, threads, resume, number, decay_now, batch=batch)
    typer.echo(f"wrote {written}")
