"""`diffusers-ext compare`: the same prompts and seeds with several methods, side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt

REPORT = "report.html"


def compare(
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts.")] = None,
    model: opt.Model = "shapes-sd3",
    methods: Annotated[
        str, typer.Option("--methods", help="Columns, as plain,softpag; a+b applies both.")
    ] = "plain,softpag",
    settings: opt.Settings = None,
    preset: opt.Preset = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, as 0,1,2.")] = "0",
    prompts_file: Annotated[Path | None, typer.Option("--prompts-file", help="One prompt a line.")] = None,
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
) -> None:
    """Compare methods at equal prompts and seeds: compare.png, report.html and results.json."""
    from ..call import seed_of

    numbers = [seed_of(s) for s in seeds.split(",") if s.strip()]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"--seeds takes different whole numbers, got {seeds!r}; for example --seeds 0,1,2")
    wanted = [*(prompts or []), *(read_prompts(prompts_file) if prompts_file else [])]
    if not wanted:
        raise ValueError("compare needs a prompt, got none; write one in quotes or pass --prompts-file FILE")
    side_by_side(
        list(dict.fromkeys(wanted)),
        numbers,
        model=model,
        methods=methods,
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
        title=f"{model}: {methods.replace(',', ', ')}",
    )


def side_by_side(
    prompts: list[str],
    seeds: list[int],
    *,
    model: str,
    methods: str,
    settings: list[str],
    preset: bool | None,
    asked: dict[str, Any],
    batch: int,
    device: str | None,
    dtype: str | None,
    out: str | Path,
    title: str,
    threads: int | None = None,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Runs and writes one comparison; returns what `results.json` holds."""
    from tqdm import tqdm

    from ..call import arguments
    from ..evaluate import sites
    from ..evaluate.compare import lines, run
    from ..evaluate.generate import Item
    from ..evaluate.grid import grid
    from ..evaluate.report import html
    from ..evaluate.store import FILE
    from ..metadata import output_folder, versions, write_bytes, write_image, write_json

    opt.refuse_other(out, "an eval", FILE)
    columns, known = opt.variants(methods, settings, model, preset)
    folder = output_folder(out)
    pipe = opt.open_model(model, device, dtype, threads)
    call = arguments(pipe, opt.defaults(model), **asked)
    opt.warn_of_texts(pipe, model, prompts, call)
    items = [Item(p, s) for p in prompts for s in seeds]
    bar = tqdm(total=len(items) * len(columns), unit="image", disable=not opt.show_progress())
    with bar, sites.unlogged():
        comparison = run(pipe, columns, items, call, batch, bar.update)
    results = {"model": model, "call": call, **comparison.to_dict(), "versions": versions()}
    ran = comparison.ran()
    told = sites.compared(sites.sentences, ran)
    write_image(folder / "compare.png", grid(comparison))
    write_bytes(folder / REPORT, html(comparison, results, title, (*notes, *known, *told)).encode())
    write_json(folder / "results.json", results)
    for line in [*known, *lines(results), *told]:
        typer.echo(line)
    for sentence in sites.compared(sites.warnings, ran):
        opt.warn(sentence)
    typer.echo(f"wrote {folder / 'compare.png'}, {REPORT} and results.json")
    return results


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, UTF-8 with or without byte-order mark; blank lines are left out."""
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
