"""Run `diffusers-ext generate`: make pictures or clips of one prompt, and record how they were made."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import making, recipes, seeds
from . import options as opt

if TYPE_CHECKING:
    from ..outputs.target import Target
    from ..outputs.unfinished import Unfinished
    from ..sampling.items import Item, Picture
    from ..sampling.progress import Progress

FAILED = ".failed.json"  # stands in the place of the picture


def generate(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to draw.", show_default=False)] = None,
    model: opt.Model = opt.MODEL,
    method: opt.Methods = None,
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    recipe: recipes.Read = None,
    save_recipe: recipes.Save = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="INTEGER",
            help="Seed of the noise of the first image. Without it, or with -1, a seed is drawn and printed.",
        ),
    ] = None,
    num_images: Annotated[
        int, typer.Option("--num-images", help="Number of images; their seeds count up from the first.")
    ] = 1,
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
    num_frames: Annotated[
        int | None,
        typer.Option("--num-frames", help="Number of frames of a video. By default the model's own."),
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", help="Frames per second of a video. By default 8.")
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", metavar="PATH", help="A folder, or a .png, .jpg, .webp, .mp4 or .gif file."
        ),
    ] = "out",
    embed: Annotated[
        bool, typer.Option("--embed/--no-embed", help="Also write the settings into the file, or not.")
    ] = True,
    named: making.Prompt = None,
) -> None:
    """Make images or videos of one prompt, with all settings in a JSON file beside each.

    Finished ones are skipped when the same command runs again.
    """
    from ..outputs.target import Target
    from ..outputs.unfinished import Unfinished
    from ..sampling import identity
    from ..sampling.call import arguments, makes_videos, seed_of
    from ..sampling.items import Item

    prompt = making.one_prompt("generate", [*([] if prompt is None else [prompt]), *(named or [])])
    if num_images < 1:
        raise ValueError(f"--num-images must be 1 or more, got {num_images}")
    first = seeds.random_seed() if seed is None or seeds.is_random(seed) else seed_of(seed)
    seed_of(first + num_images - 1)
    chosen = recipes.chosen(ctx, recipe, model, method or [], settings or [], preset, device)
    checkpoint = chosen.checkpoint
    if save_recipe is not None:
        recipes.check(save_recipe)
    target = Target.of(out, num_images)
    pipe = checkpoint.load(device, dtype, threads)
    target = target.suited(checkpoint.name, makes_videos(pipe), fps)
    asked = {
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "true_cfg_scale": true_cfg_scale,
        "height": height,
        "width": width,
        "negative_prompt": negative,
        "num_frames": num_frames,
    }
    asked = dict(chosen.call) | {name: value for name, value in asked.items() if value is not None}
    call = arguments(pipe, checkpoint.call, **asked)
    opt.warn_of_texts(checkpoint, pipe, [prompt], call)
    notes = [*chosen.notes, *([chosen.save(save_recipe, pipe, asked)] if save_recipe is not None else [])]
    common = identity.shared(pipe, checkpoint, (), call) | {"methods": chosen.settings}
    common |= {"fps": target.fps} if target.fps else {}
    run = Unfinished(target.folder, {"prompt": prompt, **identity.shaping(common)}, num_images, first)
    # A run of one picture cannot be resumed, and a seed that was asked for is used, also -1.
    with run if seed is None and num_images > 1 else nullcontext() as resumed:
        if resumed is not None:
            first = resumed.seed
        said = None if seed is not None and not seeds.is_random(seed) else _said(first, resumed)
        items = [Item(prompt, first + i) for i in range(num_images)]
        lead = [*([said] if said else []), *notes]
        progress = _make(pipe, items, chosen, common, call, batch, target, embed, lead)
        if progress.failures and resumed is not None:
            resumed.keep()
    making.end(progress)


def _said(first: int, resumed: "Unfinished | None") -> str:
    """Write the line about a seed that nobody gave."""
    if resumed is not None and resumed.found:
        return f"seed {first}, of the same command that did not end; --seed -1 draws another"
    return f"seed {first}, drawn at random; --seed {first} makes the same again"


def _make(
    pipe: Any,
    items: list["Item"],
    chosen: recipes.Chosen,
    common: dict[str, Any],
    call: dict[str, Any],
    batch: int,
    target: "Target",
    embed: bool,
    lead: list[str],
) -> "Progress":
    """Make what is not finished, and write each picture when it is made. `lead` are the first lines."""
    from ..outputs.files import write_json
    from ..sampling import identity
    from ..sampling.generate import applied
    from ..sampling.generate import generate as make

    records = {item: identity.of(item, common) for item in items}
    paths = {item: target.path(identity.name(made)) for item, made in records.items()}
    todo = [item for item in records if not _finished(paths[item], records[item], embed)]
    progress = making.progress(len(records), "clip" if target.fps else "image")
    with progress, applied(pipe, chosen.methods if todo else ()) as session:
        if len(todo) < len(records):
            _flush(progress, lead)
        for item in records:
            if item not in todo:
                progress.line(f"{paths[item]}  seed {item.seed}, finished before")
        progress.skip(len(records) - len(todo))
        for pictures in make(pipe, todo, call, batch, progress, chosen.sampler):
            # Only now: some methods refuse in the first call, and a refusal is one line.
            _flush(progress, lead)
            for p in pictures:
                if target.stem and paths[p.item].exists():
                    progress.say(f"warning: {paths[p.item]} held another picture and is replaced")
                report = session.report().to_dict() if session else None
                says = write_picture(paths[p.item], p, records[p.item], report, target.fps, embed)
                if p.flags:
                    progress.say(f"warning: {paths[p.item].name} looks wrong: {', '.join(p.flags)}")
                progress.line(f"{paths[p.item]}  seed {p.item.seed}, {p.seconds:.2f} s{says}")
            progress.tick(len(pictures))
        _flush(progress, lead)
        for failed in progress.failures:  # the next run that makes the picture removes the file
            note = records[failed.item] | {"failed": failed.reason}
            write_json(paths[failed.item].with_suffix(FAILED), note)
        if session:
            progress.line(str(session.report()))
    return progress


def _flush(progress: "Progress", lines: list[str]) -> None:
    while lines:
        progress.line(lines.pop(0))


def write_picture(
    path: Path, picture: "Picture", made: dict[str, Any], report: Any, fps: float | None, embed: bool
) -> str:
    """Write a picture and, last, the JSON file beside it; return the verdict in words."""
    from ..evaluate.score import judge
    from ..outputs.files import write_json
    from ..outputs.record import comment, write_image
    from ..outputs.video import write_video
    from ..sampling.clip import Clip

    image = picture.image
    judged = judge(image, picture.item.prompt, picture.item.seed)
    made = made | {"size": list(image.size), "flags": list(picture.flags)}
    beside = made | {
        "seconds": round(picture.seconds, 4),
        "report": report,
        "verdict": {"correct": judged.correct, "reason": judged.reason},
    }
    # A picture without a JSON file counts as unfinished. With the JSON file of an older picture it would
    # count as finished, so that file goes first.
    path.with_suffix(".json").unlink(missing_ok=True)
    if isinstance(image, Clip):
        beside |= {"frames": len(image.frames)}
        write_video(path, image.frames, fps, comment(made) if embed else None)
    else:
        write_image(path, image, made if embed else None)
    write_json(path.with_suffix(".json"), beside)
    path.with_suffix(FAILED).unlink(missing_ok=True)
    return "" if judged.correct is None else f"; {'right' if judged.correct else 'wrong'}: {judged.reason}"


def _finished(path: Path, made: dict[str, Any], embed: bool) -> bool:
    """Return whether the file exists, with the same record, and with the settings inside if `embed`."""
    from ..outputs import inside
    from ..outputs.record import PICTURES, has_record
    from ..sampling.identity import finished

    if finished(path, made) is None:
        return False
    if path.suffix.lower() == ".mp4":
        try:
            return (inside.texts(path)[0] is not None) == embed
        except ValueError:  # damaged
            return False
    return path.suffix not in PICTURES or has_record(path) == embed
