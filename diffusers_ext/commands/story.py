"""Run `diffusers-ext story`: draw subjects, and scenes in which they look alike, beside the plain scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt
from . import seeds

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..pipelines.story import StoryPipeline
    from ..pipelines.story_panel import Panel
    from .story_file import Told

FILE, SHEET = "story.json", "story.png"


def story(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="STORY.toml", help="A file with subjects, scenes and a seed.", show_default=False
        ),
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option("--subject", metavar="NAME=TEXT", help="A subject. It may come several times."),
    ] = None,
    scene: Annotated[
        list[str] | None,
        typer.Option(
            "--scene", help="A prompt that names subjects by name or text. It may come several times."
        ),
    ] = None,
    model: opt.Model = opt.MODEL,
    masks: Annotated[
        str,
        typer.Option(
            "--masks",
            help="How subjects are found: attention, or detector, which is for models of shapes world; auto "
            "takes the detector for these.",
        ),
    ] = "auto",
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="INTEGER",
            help="Seed of the references and the first scene; other scenes count up. Without it, or with -1, "
            "that of the file, or one is drawn and printed.",
        ),
    ] = None,
    tries: Annotated[
        int, typer.Option("--tries", help="The most rehearsals of a scene whose subjects are not found.")
    ] = 3,
    cache: Annotated[
        str, typer.Option("--cache", help="Where references are kept for all scenes: device, cpu or off.")
    ] = "device",
    cache_limit: Annotated[
        float, typer.Option("--cache-limit-gib", help="The most memory that references may take.")
    ] = 16.0,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    true_cfg_scale: opt.TrueCfg = None,
    height: opt.Height = None,
    width: opt.Width = None,
    negative: opt.Negative = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/story",
) -> None:
    """Draw subjects, and a series of scenes in which they keep their looks.

    Each scene is also drawn without the method, from the same noise. story.png shows all of them.
    """
    from ..models.checkpoint import Checkpoint
    from ..outputs.claim import claim
    from ..outputs.files import output_folder
    from ..pipelines.story import StoryPipeline
    from ..sampling import identity
    from ..sampling.call import arguments
    from . import story_file

    told = story_file.read(file, subject or [], scene or [])
    first, drawn = _seed(seed, told)
    checkpoint = Checkpoint.resolve(model)
    method = story_file.method_of(told, settings or [], checkpoint, preset)
    segmenter = story_file.segmenter_of(masks, bool(checkpoint.tasks), told.subjects)
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
    _warn_of_texts(told, checkpoint, pipe, call)
    pipeline = StoryPipeline(
        pipe, method, segmenter=segmenter, tries=tries, cache=cache, cache_limit_gib=cache_limit
    )
    asked = {
        "subjects": dict(told.subjects),
        "scenes": [s if isinstance(s, str) else vars(s) for s in told.scenes],
        "seed": first,
        "masks": "attention" if segmenter is None else "detector",
        "tries": tries,
        **identity.shared(pipe, checkpoint, (method,), call),
    }
    asked = json.loads(json.dumps(asked, default=str))
    with claim(folder, "story"):
        if _finished(folder, asked):
            typer.echo(f"{folder / SHEET}  finished before, with {FILE}")
            return
        if (folder / FILE).exists():
            opt.warn(f"{folder} held another story, whose pictures of the same names are replaced")
        if drawn:
            typer.echo(f"seed {first}, drawn at random; --seed {first} makes the same again")
        _draw(pipeline, told, first, call, folder, asked)


def _seed(given: str | None, told: Told) -> tuple[int, bool]:
    """Return the seed, and whether it was drawn at random."""
    from ..sampling.call import seed_of

    if given is None and told.seed is not None:
        return seed_of(told.seed), False
    if given is None or seeds.is_random(given):
        return seeds.random_seed(), True
    return seed_of(given), False


def _warn_of_texts(told: Told, checkpoint: Checkpoint, pipe: Any, call: dict[str, Any]) -> None:
    """Warn of scenes that name no subject, and of texts that the model will not understand."""
    from ..pipelines import story_text

    subjects = story_text.checked(told.subjects)
    scenes = [story_text.read(scene, subjects) for scene in told.scenes]
    for number, scene in enumerate(scenes, start=1):
        if not scene.subjects:
            opt.warn(f"scene {number} ({scene.prompt!r}) names none of {', '.join(subjects)}, so it is plain")
    opt.warn_of_texts(checkpoint, pipe, [*subjects.values(), *(scene.prompt for scene in scenes)], call)


def _finished(folder: Path, asked: dict[str, Any]) -> bool:
    """Return whether the same story is complete in a folder."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        files = [row["file"] for row in (*found["references"], *found["panels"])]
        files += [_plain(row["file"]) for row in found["panels"]]
        return found["asked"] == asked and all((folder / name).is_file() for name in (*files, SHEET))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _plain(name: str) -> str:
    """Return the name of the plain scene beside a scene."""
    return f"{name.removesuffix('.png')}-plain.png"


def _draw(
    pipeline: StoryPipeline, told: Told, seed: int, call: dict[str, Any], folder: Path, asked: dict[str, Any]
) -> None:
    """Draw a story and write each picture when it is made; the sheet and the data come last."""
    from ..evaluate.report.story_sheet import story_sheet
    from ..outputs.files import write_json
    from ..outputs.record import write_image

    references: list[dict[str, Any]] = []
    panels: list[dict[str, Any]] = []
    shown: list[tuple[str | None, Panel]] = []
    size = 0.0
    for name, panel, gib in pipeline.panels(told.subjects, told.scenes, seed, **call):
        size = max(size, gib)
        number = len(panels) + 1
        stem = f"scene-{number:02}" if name is None else f"reference-{name}"
        row = _facts(panel) | {"file": f"{stem}.png"}
        (panels if name is None else references).append(row)
        shown.append((name, panel))
        record = asked | row
        (folder / FILE).unlink(missing_ok=True)  # a story without it counts as unfinished
        write_image(folder / row["file"], panel.image, record)
        if name is None:
            write_image(folder / _plain(row["file"]), panel.plain, record | {"methods": []})
        typer.echo(f"{folder / row['file']}  {panel.prompt}, seed {panel.seed}{_said(row)}")
        if panel.missing:
            opt.warn(
                f"scene {number}: {' and '.join(panel.missing)} was not found in {pipeline.tries} "
                "rehearsals, so nothing keeps its looks; try another --seed"
            )
    scenes = [panel for name, panel in shown if name is None]
    sheet = story_sheet(
        [
            ("subjects", [(p.image, f"{n}: {p.prompt}") for n, p in shown if n is not None]),
            ("plain", [(p.plain, "") for p in scenes]),
            ("story", [(p.image, p.prompt) for p in scenes]),
        ]
    )
    write_image(folder / SHEET, sheet)
    write_json(
        folder / FILE,
        {"asked": asked, "references": references, "panels": panels, "cache_gib": round(size, 6)},
    )
    typer.echo(f"wrote {SHEET} and {FILE} in {folder}")


def _facts(panel: Panel) -> dict[str, Any]:
    """Return what is written of a picture, with the verdict if its prompt has one right picture."""
    from ..evaluate.score import judge

    facts: dict[str, Any] = {
        "prompt": panel.prompt,
        "seed": panel.seed,
        "subjects": list(panel.subjects),
        "missing": list(panel.missing),
    }
    for key, image in (("verdict", panel.image), ("plain_verdict", panel.plain)):
        judged = judge(image, panel.prompt, panel.seed)
        facts[key] = {"correct": judged.correct, "reason": judged.reason}
    return facts


def _said(row: dict[str, Any]) -> str:
    found = row["verdict"]
    if found["correct"] is None:
        return ""
    return f"; {'right' if found['correct'] else 'wrong'}: {found['reason']}"
