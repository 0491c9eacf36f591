"""Run `diffusers-ext compare`: several methods side by side, on the same prompts and seeds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import columns, making, scoring
from . import options as opt
from .seeds import seed_of

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint

REPORT = "report.html"


def compare(
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts.")] = None,
    model: opt.Model = opt.MODEL,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="The columns, as plain,softpag. Write a+b to apply both. By default these two, or plain if "
            "there are samplers.",
            show_default=False,
        ),
    ] = None,
    samplers: Annotated[
        str | None,
        typer.Option(
            "--samplers", help="Further columns, of searches, as best-of-8 or softpag+best-of-8,ttsnap."
        ),
    ] = None,
    reward: scoring.Rewards = None,
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Seeds of the noise, as 0,1,2. With -1 one is drawn and printed.")
    ] = "0",
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts-file", help="A text file with one prompt a line.")
    ] = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    true_cfg_scale: opt.TrueCfg = None,
    height: opt.Height = None,
    width: opt.Width = None,
    negative: opt.Negative = None,
    batch: opt.Batch = 4,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/compare",
    named: making.Prompt = None,
) -> None:
    """Compare methods at equal prompts and seeds, in compare.png, report.html and results.json.

    Finished pictures are skipped when the same command runs again.
    """
    from ..models.checkpoint import Checkpoint

    numbers = [seed_of(s) for s in seeds.split(",") if s.strip()]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"--seeds takes different whole numbers, got {seeds!r}; for example --seeds 0,1,2")
    wanted = [*(prompts or []), *(named or []), *(read_prompts(prompts_file) if prompts_file else [])]
    if not wanted:
        raise ValueError("compare needs a prompt, got none; write one in quotes or pass --prompts-file FILE")
    if reward and samplers is None:
        raise ValueError("--reward is for samplers, got none; add --samplers best-of-8")
    methods = methods or ("plain,softpag" if samplers is None else "plain")
    names = methods if samplers is None else f"{methods},{samplers}"
    side_by_side(
        Checkpoint.resolve(model),
        list(dict.fromkeys(wanted)),
        numbers,
        names=names,
        rewards=reward or [],
        settings=settings or [],
        preset=preset,
        asked={
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "true_cfg_scale": true_cfg_scale,
            "height": height,
            "width": width,
            "negative_prompt": negative,
        },
        batch=batch,
        device=device,
        dtype=dtype,
        threads=threads,
        out=out,
        title=f"{model}: {names.replace(',', ', ')}",
    )


def side_by_side(
    model: "Checkpoint",
    prompts: list[str],
    seeds: list[int],
    *,
    names: str,
    preset: bool | None,
    batch: int,
    device: str | None,
    out: str | Path,
    title: str,
    rewards: Sequence[str] = (),
    settings: Sequence[str] = (),
    asked: Mapping[str, Any] = MappingProxyType({}),
    dtype: str | None = None,
    threads: int | None = None,
    notes: tuple[str, ...] = (),
    wide: bool = False,
) -> dict[str, Any]:
    """Run and write one comparison; return what `results.json` holds.

    `names` are the columns. If one of them has a sampler, all are scored, and their cost is shown. The grid
    has a row for each column if it is to be `wide`.
    """
    from ..evaluate import density
    from ..evaluate.compare import lines, run
    from ..evaluate.comparison_files import PictureFiles
    from ..evaluate.report.comparison import html
    from ..evaluate.report.grid import grid
    from ..evaluate.report.wide_grid import wide_grid
    from ..evaluate.store import FILE
    from ..outputs.claim import claim
    from ..outputs.files import output_folder, write_json, write_text
    from ..outputs.record import versions, write_image
    from ..sampling import identity
    from ..sampling.call import arguments
    from ..sampling.items import Item

    opt.refuse_other(out, "an eval", FILE)
    wanted = columns.read(names)
    searched = any(column.samplers for column in wanted)
    scorers = scoring.chosen(rewards, model, device) if searched else None
    variants, known = columns.variants(wanted, settings, model, preset, scorers, measured=searched)
    folder = output_folder(out)
    pipe = model.load(device, dtype, threads)
    call = arguments(pipe, model.call, **asked)
    opt.warn_of_texts(model, pipe, prompts, call)
    items = [Item(p, s) for p in prompts for s in seeds]
    progress = making.progress(len(items) * len(variants))
    with claim(folder, "compare"), progress, density.unlogged():
        files = PictureFiles(folder, identity.shared(pipe, model, (), call))
        comparison = run(pipe, variants, items, call, batch, files=files, progress=progress)
        if not progress.finished:
            making.end(progress)
        results = {
            "model": model.name,
            "call": call,
            **files.facts(),
            **comparison.to_dict(),
            "versions": versions(),
        }
        ran = comparison.ran()
        ran_where = comparison.where()
        if replaces(folder / "results.json", results):
            progress.say(
                f"warning: {folder} held another comparison; its compare.png, {REPORT} and results.json are "
                "replaced, its pictures stay"
            )
        write_image(folder / "compare.png", (wide_grid if wide else grid)(comparison))
        write_text(folder / REPORT, html(comparison, results, title, (*notes, *known, *ran_where)))
        write_json(folder / "results.json", results)
    for line in [*known, *lines(results), *ran_where]:
        typer.echo(line)
    for sentence in density.compared(density.warnings, ran):
        opt.warn(sentence)
    typer.echo(f"wrote {folder / 'compare.png'}, {REPORT} and results.json")
    making.end(progress)
    return results


def replaces(path: Path, results: dict[str, Any]) -> bool:
    """Return whether the results at `path` have other settings, or pictures that `results` lack."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        old, new = (_pictures(r) for r in (before, json.loads(json.dumps(results))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no results, or another kind of file
        return False
    return not old <= new


def _pictures(results: dict[str, Any]) -> set[str]:
    """Return every picture in results, with its settings."""
    common = [results.get(key) for key in ("weights", "configs", "dtype", "device", "call")]
    return {
        json.dumps([common, facts["methods"], image["prompt"], image["seed"]], sort_keys=True)
        for facts in results["methods"].values()
        for image in [*facts["images"], *facts.get("failed", [])]
    }


def read_prompts(path: Path) -> list[str]:
    """Read one prompt a line, UTF-8 with or without byte-order mark. Blank lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a prompts file must be UTF-8 text, {str(path)!r} is not ({error.reason})"
        ) from error
    except OSError as error:
        raise OSError(
            f"cannot read the prompts file {str(path)!r} ({error.strerror}); check the path"
        ) from error
    return [line.strip() for line in lines if line.strip()]
