"""`diffusers-ext generate`: one prompt to pictures or clips that tell how they were made."""

import hashlib
import json
from typing import Annotated, Any

import typer

from . import options as opt


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: opt.Model = "shapes-sd3",
    method: opt.Methods = None,
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="Noise of the first image.")] = "0",
    num_images: Annotated[int, typer.Option("--num-images", help="Images, with seeds counting up.")] = 1,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    true_cfg_scale: opt.TrueCfg = None,
    height: opt.Height = None,
    width: opt.Width = None,
    negative: opt.Negative = None,
    batch: opt.Batch = 1,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Frames of a video.")] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames a second of a video; 8.")] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="PATH", help="Folder, or a .png, .mp4 or .gif file.")
    ] = "out",
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="Settings inside a PNG.")] = True,
) -> None:
    """Make images or videos of one prompt; each file has a JSON file beside it, a PNG carries it inside."""
    from ..call import arguments, makes_videos, seed_of
    from ..loading import locate
    from .target import Target

    first = seed_of(seed)
    if num_images < 1:
        raise ValueError(f"--num-images must be 1 or more, got {num_images}")
    seeds = [seed_of(first + i) for i in range(num_images)]
    methods, notes = opt.chosen(model, locate(model), method or [], settings or [], preset)
    target = Target.of(out, num_images)
    pipe = opt.open_model(model, device, dtype, threads)
    target = target.suited(model, makes_videos(pipe), fps)
    call = arguments(
        pipe,
        opt.defaults(model),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        true_cfg_scale=true_cfg_scale,
        height=height,
        width=width,
        negative_prompt=negative,
        num_frames=num_frames,
    )
    opt.warn_of_texts(pipe, model, [prompt], call)
    _make(pipe, model, prompt, seeds, methods, notes, call, batch, target, embed)


def _make(
    pipe: Any,
    model: str,
    prompt: str,
    seeds: list[int],
    methods: tuple[Any, ...],
    notes: list[str],
    call: dict[str, Any],
    batch: int,
    target: Any,
    embed: bool,
) -> None:
    from ..evaluate.generate import Item, applied
    from ..evaluate.generate import generate as make
    from ..evaluate.score import judge
    from ..evaluate.video import Clip
    from ..metadata import slug, versions, write_image, write_json
    from ..settings import as_dict
    from ..video import write_video

    shared = {
        "prompt": prompt,
        "model": model,
        "pipeline": type(pipe).__name__,
        "methods": [as_dict(m) for m in methods],
        "call": call,
    }
    with applied(pipe, methods) as session:
        for pictures in make(pipe, [Item(prompt, s) for s in seeds], call, batch):
            while notes:  # not before: some methods refuse in the first call, and a refusal is one line
                typer.echo(notes.pop(0))
            for p in pictures:
                # The name depends on all that shapes the picture, so other settings never overwrite it.
                record = {**shared, "seed": p.item.seed}
                mark = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[
                    :8
                ]
                path = target.path(f"{slug(prompt)}-{p.item.seed}-{mark}")
                judged = judge(p.image, prompt, p.item.seed)
                record |= {"size": list(p.image.size), "versions": versions(), "flags": list(p.flags)}
                sidecar = record | {
                    "seconds": round(p.seconds, 4),
                    "device": str(pipe.device),
                    "report": session.report().to_dict() if session else None,
                    "verdict": {"correct": judged.correct, "reason": judged.reason},
                }
                if isinstance(p.image, Clip):
                    sidecar |= {"frames": len(p.image.frames), "fps": target.fps}
                    write_video(path, p.image.frames, target.fps)
                else:
                    write_image(path, p.image, record if embed else None)
                write_json(path.with_suffix(".json"), sidecar)
                if p.flags:
                    opt.warn(f"{path.name} looks wrong: {', '.join(p.flags)}")
                says = (
                    ""
                    if judged.correct is None
                    else ("; right: " if judged.correct else "; wrong: ") + judged.reason
                )
                typer.echo(f"{path}  seed {p.item.seed}, {p.seconds:.2f} s{says}")
        if session:
            typer.echo(session.report())
