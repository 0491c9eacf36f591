"""`diffusers-ext train`: one model of the zoo from a seed."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    name: Annotated[str, typer.Argument(help="Model of the zoo.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: checkpoint, log, model.")] = Path(
        "runs"
    ),
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop after this time; resumable.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Length of the run.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--restart", help="Go on from the checkpoint.")] = True,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="Fixes data and noise.")] = "0",
) -> None:
    """Train a model of the zoo; interrupted runs go on where they stopped."""
    from ..call import seed_of
    from ..metadata import output_folder

    number = seed_of(seed)
    folder = output_folder(out)
    from ..zoo.train import run

    run(name, folder, minutes=minutes, samples=samples, threads=threads, resume=resume, seed=number)
