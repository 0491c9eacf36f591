"""Run `diffusers-ext search`: try many starts of a prompt, keep the best picture, and show what became of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import columns, making, scoring, seeds
from . import options as opt

if TYPE_CHECKING:
    from ..evaluate.cells import Variant
    from ..sampling.items import Item
    from ..sampling.result import Result

FILE = "search.json"
SHEET = "candidates.png"


def search(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.", show_default=False)] = None,
    model: opt.Model = opt.MODEL,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler", help="The search, as best-of-n or best-of-8. With a+b, b goes on from the winner of a."
        ),
    ] = "best-of-n",
    n: Annotated[
        int | None,
        typer.Option("--n", help="Number of candidates, or of rounds of a search that has no candidates."),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option("--budget", help="Evaluations of the denoiser that the search may take. By default any number."),
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
        int | None, typer.Option("--batch", help="Number of candidates at a time. By default all of them.")
    ] = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/search",
    named: making.Prompt = None,
) -> None:
    """Search for the best picture of a prompt, and show every candidate in candidates.png.

    Ctrl-C ends the search and keeps the best finished picture.
    """
    from ..models.checkpoint import Checkpoint
    from ..outputs.claim import claim
    from ..outputs.files import output_folder
    from ..sampling import identity
    from ..sampling.call import arguments, seed_of
    from ..sampling.items import Item
    from ..settings.samplers import main_count

    prompt = making.one_prompt("search", [*([] if prompt is None else [prompt]), *(named or [])])
    first = seeds.random_seed() if seed is None or seeds.is_random(seed) else seed_of(seed)
    checkpoint = Checkpoint.resolve(model)
    asked = columns.one("+".join([*(method or []), sampler]))
    scorers = scoring.chosen(reward or [], checkpoint, device, columns.needs_rewards([asked]))
    usual = {"budget": budget, "seconds": seconds, "micro_batch": batch, "keep_pictures": True}
    if n is not None:
        usual[main_count(asked.samplers[0].cls)] = n
    (variant,), notes = columns.variants([asked], settings or [], checkpoint, preset, scorers, **usual)
    folder = output_folder(out)
    pipe = checkpoint.load(device, dtype, threads)
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
    made = identity.of(Item(prompt, first), identity.shared(pipe, checkpoint, (), call) | {"methods": variant.settings()})
    if seed is None or seeds.is_random(seed):
        typer.echo(f"seed {first}, drawn at random; --seed {first} makes the same again")
    for note in notes:
        typer.echo(note)
    ...
