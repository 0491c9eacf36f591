"""`diffusers-ext generate`: one prompt to PNG files that tell how they were made."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: opt.Model = "shapes-sd3",
    method: opt.Methods = None,
    settings: opt.Settings = None,
    preset: opt.Preset = False,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="Noise of the first image.")] = "0",
    num_images: Annotated[int, typer.Option("--num-images", help="Images, with seeds counting up.")] = 1,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    height: opt.Height = None,
    width: opt.Width = None,
    negative: opt.Negative = None,
    batch: opt.Batch = 1,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    out: opt.Out = Path("out"),
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="Settings inside the PNG.")] = True,
) -> None:
    """Make images of one prompt; each PNG carries its settings and has a JSON file beside it."""
    from ..call import arguments, cut_text, seed_of
    from ..loading import locate
    from ..metadata import output_folder
    from ..settings import build

    first = seed_of(seed)
    if num_images < 1:
        raise ValueError(f"--num-images must be 1 or more, got {num_images}")
    seeds = [seed_of(first + i) for i in range(num_images)]
    folder = output_folder(out)
    methods = build(method or [], settings or [], locate(model) if preset else None)
    pipe = opt.open_model(model, device, dtype)
    call = arguments(
        pipe,
        opt.defaults(model),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        height=height,
        width=width,
        negative_prompt=negative,
    )
    for sentence in cut_text(pipe, prompt, call):
        opt.warn(sentence)
    _make(pipe, model, prompt, seeds, methods, call, batch, folder, embed)


def _make(
    pipe: Any,
    model: str,
    prompt: str,
    seeds: list[int],
    methods: tuple[Any, ...],
    call: dict[str, Any],
    batch: int,
    folder: Path,
    embed: bool,
) -> None:
    from ..evaluate.generate import Item, applied
    from ..evaluate.generate import generate as make
    from ..evaluate.score import judge
    from ..metadata import slug, versions, write_image, write_json
    from ..settings import as_dict

    shared = {
        "prompt": prompt,
        "model": model,
        "pipeline": type(pipe).__name__,
        "methods": [as_dict(m) for m in methods],
        "call": call,
    }
    with applied(pipe, methods) as session:
        for pictures in make(pipe, [Item(prompt, s) for s in seeds], call, batch):
            for p in pictures:
                # The name depends on all that shapes the picture, so other settings never overwrite it.
                record = {**shared, "seed": p.item.seed}
                mark = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[
                    :8
                ]
                stem = f"{slug(prompt)}-{p.item.seed}-{mark}"
                judged = judge(p.image, prompt, p.item.seed)
                record |= {"size": list(p.image.size), "versions": versions(), "flags": list(p.flags)}
                sidecar = record | {
                    "seconds": round(p.seconds, 4),
                    "device": str(pipe.device),
                    "report": session.report().to_dict() if session else None,
                    "verdict": {"correct": judged.correct, "reason": judged.reason},
                }
                write_image(folder / f"{stem}.png", p.image, record if embed else None)
                write_json(folder / f"{stem}.json", sidecar)
                if p.flags:
                    opt.warn(f"{stem}.png looks wrong: {', '.join(p.flags)}")
                says = (
                    ""
                    if judged.correct is None
                    else ("; right: " if judged.correct else "; wrong: ") + judged.reason
                )
                typer.echo(f"{folder / stem}.png  seed {p.item.seed}, {p.seconds:.2f} s{says}")
        if session:
            typer.echo(session.report())
