"""Run `diffusers-ext run`: make all pictures of a job file, with any number of workers."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import making
from . import options as opt

ENGINES = ("local", "ray")


def run(
    job: Annotated[str, typer.Argument(metavar="JOB.toml", help="The job file.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="PATH", help="The output folder. By default that of the job file."
        ),
    ] = None,
    batch: opt.Batch = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Make part I of N parts of the tasks. Parts count from 0."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="One of local, which is this process, and ray.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Number of workers of Ray. By default one for each GPU, or one."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to do and make nothing.")
    ] = False,
) -> None:
    """Make all pictures of a job file. Finished ones are skipped when it runs again.

    It may be started several times on one folder, also under accelerate launch: the processes share the work.
    """
    from ..jobs import fleet
    from ..jobs.forecast import forecast, literal
    from ..jobs.job import Job

    if batch < 1:
        raise ValueError(f"a batch needs at least one image, got {batch}; try --batch 8")
    if engine not in ENGINES:
        raise ValueError(f"--engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if workers is not None and engine == "local":
        raise ValueError(f"--workers is for --engine ray, got {workers}; start run several times instead")
    found = Job.read(job, out)
    part = (0, 1) if shard is None else opt.shard_of(shard)
    if dry_run:
        for line in forecast(found, part):
            typer.echo(line)
        return
    if (note := literal(found)) is not None:
        typer.echo(note, err=True)
    options = fleet.Options(shard=part, batch=batch, show=sys.stderr.isatty(), debug=making.debug.get())
    if engine == "local":
        watch = fleet.local(found, options)
    else:
        from ..jobs import ray_engine

        watch = ray_engine.fleet(found, options, workers)
    if watch.lead:
        making.end(watch)
