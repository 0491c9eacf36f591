"""`diffusers-ext eval`: how often a model obeys the prompt, with intervals, and what a method changes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt


def evaluate(
    model: opt.Model = "shapes-sd3",
    suite: Annotated[str, typer.Option("--suite", help="train-like, held-out or tuning.")] = "held-out",
    n: Annotated[int, typer.Option("--n", help="Prompts per task.")] = 40,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="Fixes prompts and noise.")] = "0",
    method: opt.Methods = None,
    settings: opt.Settings = None,
    preset: opt.Preset = False,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    batch: opt.Batch = 8,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    out: opt.Out = Path("out/eval"),
) -> None:
    """Measure accuracy per task on a prompt suite; resumes by itself; writes results.json."""
    from tqdm import tqdm

    from ..call import arguments, seed_of
    from ..evaluate.compare import Variant
    from ..evaluate.run import answer, results
    from ..evaluate.store import Store
    from ..evaluate.suite import questions
    from ..evaluate.weights import fingerprint
    from ..metadata import output_folder, versions, write_json
    from ..settings import PLAIN, build

    asked = questions(suite, n, seed_of(seed))
    folder = output_folder(out)
    home = model_folder(model)
    methods = build(method or [], settings or [], home if preset else None)
    pipe = opt.open_model(model, device, dtype)
    call = arguments(pipe, opt.defaults(model), num_inference_steps=steps, guidance_scale=guidance_scale)
    identity = {"weights": fingerprint(home), "call": call, "dtype": str(pipe.dtype)}
    store = Store(folder, identity)
    plain, other = Variant(PLAIN), Variant("+".join(method or []), methods)
    with tqdm(total=len(asked) * (1 + bool(methods)), unit="image", disable=not opt.show_progress()) as bar:
        base = answer(pipe, plain, asked, call, store, batch, bar.update)
        judged = answer(pipe, other, asked, call, store, batch, bar.update) if methods else base
    if all(j.correct is None for j in judged):
        raise ValueError(f"eval needs a model of the shapes world; for {model!r} there is {judged[0].reason}")
    found = {
        "model": model,
        "suite": suite,
        "n": n,
        "seed": seed_of(seed),
        **identity,
        **results(other, judged, base if methods else None),
        "versions": versions(),
    }
    write_json(folder / "results.json", found)
    for line in table(found, other.label or PLAIN):
        typer.echo(line)
    typer.echo(f"wrote {folder / 'results.json'}")


def model_folder(name: str) -> Path:
    """The folder of a model; Hub models are fetched, since results name the sha256 of the files."""
    from ..loading import locate

    folder = locate(name)
    if folder is None:
        from diffusers import DiffusionPipeline

        folder = Path(DiffusionPipeline.download(name))
    return folder


def table(found: dict[str, Any], label: str) -> list[str]:
    """The printed figures of `results.json`."""
    from ..evaluate.compare import difference, percent

    plain, paired = found.get("plain"), found.get("paired")
    head = f"{'task':<14} {label if plain is None else 'plain':<20}"
    lines = [head.rstrip() if plain is None else f"{head} {label:<20} difference"]
    for task in [*found["tasks"], "overall"]:
        ours = found["overall"] if task == "overall" else found["tasks"][task]
        if plain is None:
            lines.append(f"{task:<14} {percent(ours):<20} of {ours['n']}")
            continue
        base = plain["overall"] if task == "overall" else plain["tasks"][task]
        pair = paired["overall"] if task == "overall" else paired["tasks"][task]
        lines.append(f"{task:<14} {percent(base):<20} {percent(ours):<20} {difference(pair)}")
    return lines
