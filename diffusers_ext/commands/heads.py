"""Run `diffusers-ext heads`: show what attention heads do to a picture, and where its words are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from . import making, seeds
from . import options as opt

MARKS = "heads.json", "maps.json"


def heads(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.", show_default=False)] = None,
    model: opt.Model = opt.MODEL,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            help="Attention modules or blocks, with commas between names; * stands for any text, as "
            "mid_block*. By default all.",
        ),
    ] = None,
    numbers: Annotated[
        str | None, typer.Option("--heads", help="Numbers of heads, as 0,3. By default all.")
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            "--words",
            help="Words of the prompt to map, with commas between them. By default all that mean something.",
        ),
    ] = None,
    map_steps: Annotated[
        str | None,
        typer.Option("--map-steps", help="Steps to map, as 0,7,14; they count from 0. By default all."),
    ] = None,
    per_head: Annotated[bool, typer.Option("--per-head", help="Also map each head alone.")] = False,
    strength: Annotated[
        float, typer.Option("--strength", help="How much a head sees only itself, from 0 to 1.")
    ] = 1.0,
    scale: Annotated[
        float, typer.Option("--scale", help="Scale of the guidance away from the perturbed head.")
    ] = 3.0,
    maps_only: Annotated[bool, typer.Option("--maps-only", help="Make the maps of words alone.")] = False,
    heads_only: Annotated[
        bool, typer.Option("--heads-only", help="Make the pictures of heads alone.")
    ] = False,
    most: Annotated[
        int, typer.Option("--most", help="The most heads that are drawn without asking for fewer.")
    ] = 128,
    method: opt.Methods = None,
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="INTEGER",
            help="Seed of the noise of all pictures. Without it, or with -1, one is drawn and printed.",
        ),
    ] = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    true_cfg_scale: opt.TrueCfg = None,
    height: opt.Height = None,
    width: opt.Width = None,
    num_frames: Annotated[
        int | None,
        typer.Option("--num-frames", help="Number of frames of a video. By default the model's own."),
    ] = None,
    negative: opt.Negative = None,
    batch: opt.Batch = 8,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/heads",
    named: making.Prompt = None,
) -> None:
    """Draw a picture for each attention head, and map the words of the prompt.

    A picture is guided away from a pass in which its head sees only itself. Maps show how much attention each
    place pays to a word. Sheets are PNGs; heads.html and maps.html show everything in a browser.
    """
    from ..explore import head_pictures, token_maps
    from ..models.checkpoint import Checkpoint
    from ..outputs.claim import claim
    from ..outputs.files import output_folder
    from ..sampling import identity
    from ..sampling.call import arguments, seed_of

    prompt = making.one_prompt("heads", [*([] if prompt is None else [prompt]), *(named or [])])
    if maps_only and heads_only:
        raise ValueError("--maps-only and --heads-only leave nothing to make; choose one of them")
    drawn = seed is None or seeds.is_random(seed)
    first = seeds.random_seed() if drawn else seed_of(seed)
    asked, mapped = _numbers("--heads", numbers), _numbers("--map-steps", map_steps)
    checkpoint = Checkpoint.resolve(model)
    methods, notes = opt.chosen(checkpoint, method or [], settings or [], preset)
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
        num_frames=num_frames,
        negative_prompt=negative,
    )
    opt.warn_of_texts(checkpoint, pipe, [prompt], call)
    of_all: dict[str, Any] = {"seed": first, "methods": methods, **call}
    of_maps = {"words": words, "layers": layers, "steps": mapped, "per_head": per_head}
    of_heads = {"layers": layers, "heads": asked, "scale": scale, "strength": strength, "micro_batch": batch}
    wanted, said = _wanted(pipe, layers, maps_only, heads_only)
    if "maps" in wanted:
        said = [str(token_maps.plan(pipe, prompt, call=call, **of_maps)), *said]
    if "heads" in wanted:
        chosen = head_pictures.plan(pipe, **of_heads, most=most)
        said = [*said, head_pictures.cost(chosen)]
    if drawn:
        notes = [f"seed {first}, drawn at random; --seed {first} makes the same again", *notes]
    record = identity.shared(pipe, checkpoint, methods, call)
    with claim(folder, "heads"):
        if any((folder / mark).exists() for mark in MARKS):
            opt.warn(f"{folder} held another exploration, whose files are replaced where names are the same")
        for line in [*notes, *said]:
            typer.echo(line)
        if "maps" in wanted:
            _say(token_maps.maps(pipe, prompt, **of_maps, **of_all).save(folder, record))
        if "heads" in wanted:
            with making.progress(len(chosen) + 1, "picture") as progress, _not_written():
                sheet = head_pictures.heads(pipe, prompt, **of_heads, **of_all, most=most, progress=progress)
            _say(sheet.save(folder, record))
            for each in sheet.largest(3):
                typer.echo(f"change {each.change:.1f}: head {each.head} of {each.layer}")


def _wanted(
    pipe: Any, layers: str | None, maps_only: bool, heads_only: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Return the parts to make, and a line about one that the named layers cannot have."""
    from ..explore.layers import matching, sites_of

    if maps_only or heads_only:
        return ("maps",) if maps_only else ("heads",), []
    kinds = {site.kind for site in matching(sites_of(pipe), layers)}
    if kinds == {"self"}:
        return ("heads",), ["no maps of words, since these layers read no text"]
    if kinds == {"cross"}:
        return ("maps",), ["no pictures of heads, since these layers are cross-attention"]
    return ("maps", "heads"), []


@contextmanager
def _not_written() -> Iterator[None]:
    """Say of a request to stop that nothing was written; a sheet is made in one go."""
    from ..outputs.stop import Interrupted

    try:
        yield
    except Interrupted as stopped:
        raise Interrupted("stopped; the pictures of heads were not written", stopped.number) from None


def _say(paths: list[Path]) -> None:
    for path in paths:
        typer.echo(str(path))


def _numbers(option: str, text: str | None) -> list[int] | None:
    """Read whole numbers with commas between them; raises `ValueError` for anything else."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{option} takes whole numbers with commas between them, got {text!r}; for example 0,3"
        ) from None
