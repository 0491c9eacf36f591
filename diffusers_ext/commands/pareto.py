"""Run `diffusers-ext eval --samplers`: what searches gain for what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from . import columns, making, scoring
from . import options as opt

FILE, GALLERY = "pareto.html", "gallery.html"  # what marks an eval of samplers, and one of methods
REPORT = "report.html"

if TYPE_CHECKING:
    from ..evaluate.cells import Variant
    from ..evaluate.suite import Question
    from ..models.checkpoint import Checkpoint


def budgets(text: str | None) -> list[int | None]:
    """Read `--budget 240,480`; raises `ValueError` for what is no list of different numbers above 0."""
    if text is None:
        return [None]
    found = [piece.strip() for piece in text.split(",") if piece.strip()]
    if (
        not found
        or not all(p.isascii() and p.isdigit() and int(p) for p in found)
        or len(set(found)) < len(found)
    ):
        raise ValueError(
            f"--budget takes different numbers of evaluations, 1 or more, got {text!r}; for example "
            "--budget 240,480"
        )
    return [int(piece) for piece in found]


def variants(
    names: str,
    budgets: Sequence[int | None],
    settings: Sequence[str],
    model: Checkpoint,
    preset: bool | None,
    scorers: scoring.Scorers,
) -> tuple[list[Variant], list[str]]:
    """Read the columns: plain first, and each sampler at each budget.

    A column whose samplers all have numbers in their names, such as best-of-8, comes once and has no budget.
    Columns without a sampler draw one picture.
    """
    from ..settings.methods import PLAIN

    asked = columns.read(names)
    if all(column.label != PLAIN for column in asked):
        asked = [*columns.read(PLAIN), *asked]
    asked.sort(key=lambda column: column.label != PLAIN)
    sets = [
        columns.variants(asked, settings, model, preset, scorers, b, measured=True) for b in (None, *budgets)
    ]
    at = {b: built for b, (built, _) in zip((None, *budgets), sets, strict=True)}
    found = []
    for place, column in enumerate(asked):
        fixed = all(s.count is not None for s in column.samplers)
        for budget in [None] if fixed else budgets:
            variant = at[budget][place]
            if not fixed and len(budgets) > 1:
                variant = replace(variant, label=f"{column.label} at {budget}")
            found.append(variant)
    return found, sets[0][1]


def measure(
    model: Checkpoint,
    asked: Sequence[Question],
    names: str,
    *,
    suite: str,
    n: int,
    seed: int,
    budget: str | None,
    rewards: Sequence[str],
    settings: Sequence[str],
    preset: bool | None,
    call: Mapping[str, Any],
    batch: int,
    device: str | None,
    dtype: str | None,
    threads: int | None,
    out: str,
) -> None:
    """Measure the samplers in `names` on a suite, and write the report."""
    from ..evaluate import density
    from ..evaluate.pareto import common, figures, rows
    from ..evaluate.pictures import Pictures
    from ..evaluate.report.pareto import write
    from ..evaluate.runner import answer, column, key
    from ..evaluate.store import Store
    from ..outputs.claim import claim
    from ..outputs.files import output_folder
    from ..outputs.record import versions
    from ..sampling.call import arguments

    limits = budgets(budget)
    columns.read(names)  # before the weights of rewards are read
    scorers = scoring.chosen(rewards, model, device)
    wanted, notes = variants(names, limits, settings, model, preset, scorers)
    opt.refuse_other(out, "an eval of methods", GALLERY)
    opt.refuse_other(out, "a comparison", REPORT)
    folder = output_folder(out)
    pipe = model.load(device, dtype, threads)
    call = arguments(pipe, model.call, **call)
    identity = {**model.marks, "call": call, "dtype": str(pipe.dtype), "device": pipe.device.type}
    progress = making.progress(len(asked) * len(wanted))
    with claim(folder, "eval"), progress, density.unlogged():
        store, pictures = Store(folder, identity), Pictures(folder)
        run = partial(answer, pipe, questions=asked, call=call, store=store, batch=batch, progress=progress)
        # Plain comes last: if a sampler does not fit the model, it fails before the plain pictures are made.
        answered = [run(variant=variant, pictures=pictures) for variant in reversed(wanted)][::-1]
        judged = common(answered)
        if not judged[0]:
            making.end(progress)
        found = {
            "model": model.name,
            "suite": suite,
            "n": n,
            "seed": seed,
            "budgets": [b for b in limits if b is not None],
            "reward_names": scorers.label,
            **identity,
            **figures(wanted, judged),
            **making.lost(progress),
            "versions": versions(),
        }
        ran = [line for v in wanted for line in density.sentences(density.kept(folder, key(v)))]
        shown = [column(v, own, pictures) for v, own in zip(wanted, judged, strict=True)]
        title = f"{model.name}: samplers on {suite} prompts"
        files = write(folder, found, wanted, shown, title, [*conditions(found), *notes, *ran])
    for line in [*notes, *opt.aligned(rows(found)), *ran]:
        typer.echo(line)
    typer.echo(f"wrote {files[-1]} and beside it {', '.join(f.name for f in files[:-1])}")
    making.end(progress)


def conditions(found: Mapping[str, Any]) -> list[str]:
    """Return sentences on what the figures were measured on."""
    call = ", ".join(f"{k} {v}" for k, v in found["call"].items())
    return [
        f"{found['suite']} prompts, {found['n']} a task, seed {found['seed']}; {call}.",
        "An evaluation is a row of the denoiser, and one that is propagated back counts three times.",
        f"Intervals hold 95 %. The reward is {found['reward_names']}.",
    ]
