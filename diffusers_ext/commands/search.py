"""Run `diffusers-ext search`: try many starts of a prompt, keep the best picture, and show all of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import columns, making, scoring, seeds
from . import options as opt

if TYPE_CHECKING:
    from ..evaluate.cells import Variant
    from ..outputs.stop import Interrupted
    from ..outputs.target import Target
    from ..sampling.items import Item
    from ..sampling.result import Result
    from ..settings.samplers import Named

FILE = "search.json"
SHEET = "candidates.png"
GROUP = 4  # candidates of best-of-n that a CPU finishes at a time


def search(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.", show_default=False)] = None,
    model: opt.Model = opt.MODEL,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            help="The search, as best-of-n or best-of-8. With a+b, b goes on from the winner of a.",
        ),
    ] = "best-of-n",
    n: Annotated[
        int | None,
        typer.Option("--n", help="Number of candidates, or of rounds of a search that has no candidates."),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget", help="Evaluations of the denoiser that the search may take. By default any number."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Time after which the best picture so far is kept.")
    ] = None,
    reward: scoring.Rewards = None,
    method: opt.Methods = None,
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="INTEGER",
            help="Seed of the first candidate, which fixes the others. Without it, or with -1, one is drawn "
            "and printed.",
        ),
    ] = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    true_cfg_scale: opt.TrueCfg = None,
    height: opt.Height = None,
    width: opt.Width = None,
    negative: opt.Negative = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            help="Number of candidates at a time. By default all; 4 for best-of-n on a CPU, which are "
            "finished before the next ones.",
        ),
    ] = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/search",
    named: making.Prompt = None,
) -> None:
    """Search for the best picture of a prompt, and show every candidate in candidates.png.

    Ctrl-C ends the search and keeps the best finished picture, if there is one.
    """
    from ..models.checkpoint import Checkpoint
    from ..outputs.claim import claim
    from ..outputs.files import output_folder
    from ..outputs.target import Target
    from ..sampling import identity
    from ..sampling.call import arguments, makes_videos, seed_of
    from ..sampling.items import Item

    prompt = making.one_prompt("search", [*([] if prompt is None else [prompt]), *(named or [])])
    drawn = seed is None or seeds.is_random(seed)
    first = seeds.random_seed() if drawn else seed_of(seed)
    checkpoint = Checkpoint.resolve(model)
    (asked,) = columns.read("+".join([*(method or []), sampler]))
    if not asked.samplers:
        raise ValueError(f"--sampler takes the name of a search, got {sampler!r}; for example best-of-8")
    scorers = scoring.chosen(reward or [], checkpoint, device, columns.needs_rewards([asked]))
    usual = {"seconds": seconds, "micro_batch": batch, "keep_pictures": True}
    (variant,), notes = columns.variants(
        [asked],
        [*_count(n, asked.samplers[0]), *(settings or [])],
        checkpoint,
        preset,
        scorers,
        budget,
        **usual,
    )
    folder = output_folder(out)
    pipe = checkpoint.load(device, dtype, threads)
    if pipe.device.type == "cpu":
        variant = _in_groups(variant)
    target = Target(folder).suited(model, makes_videos(pipe), None)
    call = arguments(
        pipe,
        checkpoint.call,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        true_cfg_scale=true_cfg_scale,
        height=height,
        width=width,
        negative_prompt=negative,
    )
    opt.warn_of_texts(checkpoint, pipe, [prompt], call)
    common = identity.shared(pipe, checkpoint, (), call) | {"methods": variant.settings()}
    item = Item(prompt, first)
    record = identity.of(item, common | ({"fps": target.fps} if target.fps else {}))
    path = target.path(identity.name(record))
    if drawn:
        notes = [f"seed {first}, drawn at random; --seed {first} makes the same again", *notes]
    with claim(folder, "search"):
        if _finished(folder, path, record):
            typer.echo(f"{path}  finished before, with {SHEET} and {FILE}")
            return
        if (folder / FILE).exists():
            opt.warn(f"{folder} held another search; its {SHEET} and {FILE} are replaced, its picture stays")
        result, report, asked_to_stop = _run(pipe, variant, item, call)
        for note in notes:
            typer.echo(note)
        _write(target, path, variant, item, record, result, report, asked_to_stop)
    if asked_to_stop:
        raise asked_to_stop


def _in_groups(variant: Variant) -> Variant:
    """Let best of n finish a few candidates at a time, so that a search that is stopped keeps those.

    On a CPU larger groups are no faster. A size that was asked for stays, and so does a limit of time, with
    which one candidate is made at a time.
    """
    sampler = variant.sampler
    if sampler.name != "best-of-n" or sampler.micro_batch is not None or sampler.seconds is not None:
        return variant
    return dataclasses.replace(variant, sampler=dataclasses.replace(variant.sampler, micro_batch=GROUP))


def _count(n: int | None, sampler: Named) -> list[str]:
    """Return the setting that `--n` makes; raises `ValueError` for a sampler without such a number."""
    from ..settings.samplers import main_count

    if n is None:
        return []
    if (name := main_count(sampler.cls)) is None:
        raise ValueError(f"{sampler.kind} has no number of candidates or rounds, got --n {n}; leave it out")
    return [f"{sampler.label}.{name}={n}"]


def _finished(folder: Path, path: Path, record: dict[str, Any]) -> bool:
    """Return whether the same search ended here without being stopped."""
    from ..sampling.identity import finished

    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = isinstance(found, dict) and found.get("picture") == path.name and not found.get("interrupted")
    return same and (folder / SHEET).is_file() and finished(path, record) is not None


def _run(
    pipe: Any, variant: Variant, item: Item, call: dict[str, Any]
) -> tuple[Result, dict[str, Any] | None, Interrupted | None]:
    """Search; return the result, the report of the methods, and the request to stop if there was one."""
    import sys

    import torch

    from ..errors import MethodError
    from ..outputs.stop import Interrupted, StopRequest
    from ..sampling.generate import applied

    with StopRequest("step") as stop, applied(pipe, variant.methods) as session:
        try:
            result = variant.sampler.sample(
                pipe,
                item.prompt,
                generator=torch.Generator("cpu").manual_seed(item.seed),
                output_type="np",
                progress=sys.stderr.isatty(),
                stop=lambda: stop.asked,
                **call,
            )
        except MethodError:
            if stop.asked:
                raise Interrupted(
                    "stopped before a picture was finished, so nothing was written; --batch 1 finishes one "
                    "after the other",
                    stop.number,
                ) from None
            raise
        report = session.report().to_dict() if session else None
    said = "stopped; the best picture so far was written, and the same command searches again"
    return result, report, Interrupted(said, stop.number) if stop.asked else None


def _write(
    target: Target,
    path: Path,
    variant: Variant,
    item: Item,
    record: dict[str, Any],
    result: Result,
    report: dict[str, Any] | None,
    interrupted: Any,
) -> None:
    """Write the picture with its record, the sheet, and last the data; say what was found."""
    from ..evaluate.candidates import facts, fates, place, summary, verdicts
    from ..evaluate.report.candidates import sheet
    from ..outputs.files import write_json
    from ..outputs.record import write_image
    from ..sampling.generate import flags_of, to_image
    from ..sampling.items import Picture
    from .generate import write_picture

    array = result.images[0]
    picture = Picture(item, to_image(array, item), result.seconds, flags_of(array))
    says = write_picture(path, picture, record, report, target.fps, True)
    judged = verdicts(result, item.prompt)
    found = facts(result, judged)
    rewards = [dict(r) for r in variant.rewards]
    words = summary(variant.label, result, rewards)
    write_image(target.folder / SHEET, sheet(fates(result, judged), [item.prompt, *words]))
    more = {"interrupted": bool(interrupted), "report": report, **found}
    write_json(target.folder / FILE, {"picture": path.name, **record, **more})
    score = f"score {found['score']:.3f}" if rewards else "made"
    typer.echo(f"{path}  {score}, {place(result)}{says}")
    for line in [*words, *(report["engagement"]["sentences"] if report else [])]:
        typer.echo(line)
    if found["winner_seed"] is not None and variant.sampler.noise is None:
        typer.echo(f"generate --seed {found['winner_seed']} with the same options makes this picture")
    typer.echo(f"wrote {SHEET} and {FILE} beside it")
