"""Run `diffusers-ext eval`: measure how often a model obeys the prompt, and what a method changes."""

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from . import making, pareto, scored, scoring
from . import options as opt
from .compare import REPORT
from .seeds import seed_of


def evaluate(
    model: opt.Model = opt.MODEL,
    suite: opt.Suite = "held-out",
    n: Annotated[int, typer.Option("--n", help="Number of prompts per task.")] = 40,
    seed: Annotated[
        str,
        typer.Option(
            "--seed", metavar="INTEGER", help="Fixes prompts and noise. With -1 a seed is drawn and printed."
        ),
    ] = "0",
    method: opt.Methods = None,
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    samplers: Annotated[
        str | None,
        typer.Option(
            "--samplers",
            help="Columns of searches in place of --method, as plain,best-of-8,softpag+best-of-8. The report "
            "is quality over cost.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Evaluations for each picture of a search without a number in its name, as 240 or 240,480.",
        ),
    ] = None,
    reward: scoring.Rewards = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    batch: opt.Batch = 8,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/eval",
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Score the pictures in this folder, in place of making some."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="How the folder of --images is arranged: flat, geneval, t2i-compbench, hpdv2 or drawbench. "
            "By default flat.",
        ),
    ] = None,
) -> None:
    """Measure accuracy per task on a prompt suite, with a chart and a gallery.

    Finished pictures are skipped when the same command runs again.
    """
    if images is not None:
        _refuse_making(locals())
        scored.score(images, layout or "flat", out)
        return
    if layout is not None:
        raise ValueError(f"--layout is for --images, got {layout!r} alone; add --images FOLDER")
    from ..evaluate import density
    from ..evaluate.cells import Variant
    from ..evaluate.pictures import Pictures
    from ..evaluate.report.outputs import rows, write
    from ..evaluate.runner import answer, both, column, key, results
    from ..evaluate.store import Store
    from ..evaluate.suite import questions
    from ..models.checkpoint import Checkpoint
    from ..outputs.claim import claim
    from ..outputs.files import output_folder
    from ..outputs.record import versions
    from ..sampling.call import arguments
    from ..settings.methods import PLAIN

    number = seed_of(seed)
    checkpoint = Checkpoint.resolve(model)
    asked = questions(suite, n, number, checkpoint.tasks)
    if samplers is not None:
        if method:
            raise ValueError(
                f"--method and --samplers do not go together, got both; write the method as a column, as "
                f"--samplers plain,{method[0]}"
            )
        pareto.measure(
            checkpoint,
            asked,
            samplers,
            suite=suite,
            n=n,
            seed=number,
            budget=budget,
            rewards=reward or [],
            settings=settings or [],
            preset=preset,
            call={"num_inference_steps": steps, "guidance_scale": guidance_scale},
            batch=batch,
            device=device,
            dtype=dtype,
            threads=threads,
            out=out,
        )
        return
    if given := [name for name, value in (("--budget", budget), ("--reward", reward)) if value is not None]:
        raise ValueError(f"{given[0]} is for samplers, got none; add --samplers plain,best-of-8")
    methods, notes = opt.chosen(checkpoint, method or [], settings or [], preset)
    opt.refuse_other(out, "a comparison", REPORT)
    opt.refuse_other(out, "an eval of samplers", pareto.FILE)
    folder = output_folder(out)
    pipe = checkpoint.load(device, dtype, threads)
    call = arguments(pipe, checkpoint.call, num_inference_steps=steps, guidance_scale=guidance_scale)
    identity = {**checkpoint.marks, "call": call, "dtype": str(pipe.dtype), "device": pipe.device.type}
    plain, other = Variant(PLAIN), Variant("+".join(method or []), methods)
    progress = making.progress(len(asked) * (1 + bool(methods)))
    with claim(folder, "eval"), progress, density.unlogged():
        store, pictures = Store(folder, identity), Pictures(folder)
        run = partial(answer, pipe, questions=asked, call=call, store=store, batch=batch, progress=progress)
        # The method goes first: if it does not fit the model, it fails before the plain pictures are made.
        judged = run(variant=other if methods else plain, pictures=pictures)
        base = run(variant=plain, pictures=pictures) if methods else judged
        judged, base = both(judged, base)
        if not judged:
            making.end(progress)
        ran = density.kept(folder, key(other))
        found = {
            "model": model,
            "suite": suite,
            "n": n,
            "seed": number,
            **identity,
            **results(other, judged, base if methods else None, ran),
            **making.lost(progress),
            "versions": versions(),
        }
        columns = [column(other, judged, pictures), *([column(plain, base, pictures)] if methods else [])]
        files = write(folder, found, *columns)
    for line in [*notes, *opt.aligned(rows(found, other.label or PLAIN)), *density.sentences(ran)]:
        typer.echo(line)
    for sentence in density.warnings(ran):
        opt.warn(sentence)
    typer.echo(f"wrote {files[-1]} and beside it {', '.join(f.name for f in files[:-1])}")
    making.end(progress)


def _refuse_making(given: Mapping[str, Any]) -> None:
    """Raise `ValueError` if an option was given that is about making pictures."""
    usual = {name: option.default for name, option in inspect.signature(evaluate).parameters.items()}
    for name, default in usual.items():
        if name not in ("images", "layout", "out") and given[name] != default:
            raise ValueError(
                f"--{name.replace('_', '-').replace('settings', 'set')} is for making pictures, and --images "
                "scores those that are there; leave it out"
            )
