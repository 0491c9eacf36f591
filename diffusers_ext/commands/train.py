"""Run `diffusers-ext train`: train a model of the zoo, a student of one, or a network for its noise."""

from pathlib import Path
from typing import Annotated

import typer

from ..training.plans import RUNS
from . import options as opt

STUDENT, NOISE = "clear", "npnet"


def train(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join((*RUNS, STUDENT, NOISE))}.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help=f"Folder of runs, in which the folder NAME is made. For {STUDENT} and {NOISE}, the "
            "folder of the result.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            help="Stop after this time, counted from the start of the command. The next run goes on.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", help="Length of the run in pictures. By default the recipe's."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", help="Samples per step. By default the recipe's, which suits a CPU; a GPU takes 512."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Number of CPU threads. By default all cores.")
    ] = None,
    decay_now: Annotated[
        bool, typer.Option("--decay-now", help="Let the learning rate fall to nothing from here on.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on from the checkpoint, or begin again.")
    ] = True,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            help=f"Weights to begin with: a model of the zoo or a folder. Not for {STUDENT} and {NOISE}.",
        ),
    ] = None,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="Fixes data and noise.")] = "0",
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            "--model",
            help=f"The model that {STUDENT} distils, or whose noise {NOISE} changes. By default shapes-sd3.",
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option("--pairs", metavar="PATH", help=f"The folder of 'collect' that {NOISE} learns from."),
    ] = None,
    settings: opt.Settings = None,
) -> None:
    """Train a model of the zoo; an interrupted run goes on from its last checkpoint.

    `clear` distils a trained model for CLEAR with the settings of --set. `npnet` trains a network of the
    sizes in --set, which changes the noise of a model.
    """
    from ..models.logs import quiet_libraries
    from ..models.threads import use_threads
    from ..outputs.claim import claim
    from ..outputs.files import output_folder, subfolder
    from ..sampling.call import seed_of
    from ..training import distill, noise
    from ..training.fit import Run
    from ..training.runs import run

    number = seed_of(seed)
    if name not in (known := (*RUNS, STUDENT, NOISE)):
        raise ValueError(f"unknown model {name!r}; train one of {', '.join(known)}")
    # A run that is refused leaves no folder, so all is checked before one is made.
    begin = None if start is None or name in (STUDENT, NOISE) else _start(start)
    how = Run(minutes, samples, decay_now, resume, number, batch=batch, start=begin)
    use_threads(threads)
    if (name == NOISE) != (pairs is not None):
        came = "none" if pairs is None else f"them for {name!r}"
        raise ValueError(
            f"'train {NOISE}' learns from pairs and nothing else does, got {came}; make some with "
            "'diffusers-ext collect', and name their folder with --pairs"
        )
    if name in (STUDENT, NOISE):
        quiet_libraries()
        if start:
            begins = "its teacher" if name == STUDENT else "the seed alone"
            raise ValueError(f"'train {name}' starts from {begins}, got --start {start}; leave it out")
        model = teacher or "shapes-sd3"
        folder = output_folder(Path("runs") / name if out is None else out)
        with claim(folder, "train"):
            if name == STUDENT:
                written = distill.run(model, settings or [], folder, how)
            else:
                written = noise.run(model, Path(pairs), settings or [], folder, how)
    else:
        if teacher or settings:
            raise ValueError(
                f"--teacher and --set are for 'train {STUDENT}' and 'train {NOISE}', got them for {name!r}; "
                "leave them out"
            )
        folder = output_folder("runs" if out is None else out)
        with claim(subfolder(folder, name), "train"):
            written = run(name, folder, how)
    typer.echo(f"wrote {written}")


def _start(name: str) -> Path:
    """Return the folder of the weights that a run begins with."""
    from ..zoo import catalogue

    folder = (
        catalogue.path(name) if name in (*catalogue.MODELS, *catalogue.REWARDS) else Path(name).expanduser()
    )
    if not folder.is_dir():
        known = ", ".join((*catalogue.MODELS, *catalogue.REWARDS))
        raise ValueError(f"--start takes a folder or one of {known}, got {name!r}; give one that is there")
    return folder
