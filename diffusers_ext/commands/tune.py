"""Run `diffusers-ext tune`: choose the settings of a method that suit a model best, on tuning prompts."""

from functools import partial
from typing import Annotated

import typer

from . import making
from . import options as opt


def tune(
    model: opt.Model = "shapes-sd3",
    method: Annotated[str, typer.Option("--method", help="The method whose settings are tried.")] = "softpag",
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=[VALUE, ...]", help="Values to try, as JSON, as scale=[1,2,4]."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Number of prompts per task to choose on.")] = 20,
    confirm: Annotated[
        int,
        typer.Option(
            "--confirm", help="Number of further prompts per task, to compare the best settings once more."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Fixes prompts and noise.")] = 0,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    batch: opt.Batch = 16,
    device: opt.Device = None,
    out: opt.Out = "out/tune",
) -> None:
    """Try settings on the tuning suite and write the best ones to METHOD.json."""
    from ..evaluate.cells import Variant
    from ..evaluate.runner import answer
    from ..evaluate.score import compare, summarise
    from ..evaluate.settings_search import assignments, best, confirmation, halves
    from ..evaluate.store import Store
    from ..evaluate.suite import questions
    from ..evaluate.words import difference, percent
    from ..models.checkpoint import Checkpoint
    from ..outputs.claim import claim
    from ..outputs.files import output_folder, write_json
    from ..sampling.call import arguments
    from ..settings.methods import as_dict, build

    variants = [Variant(" ".join(a), build([method], a)) for a in assignments(grid or [])]
    checkpoint = Checkpoint.resolve(model)
    asked, others = halves(questions("tuning", n + confirm, seed, checkpoint.tasks), n)
    folder = output_folder(out)
    pipe = checkpoint.load(device)
    call = arguments(pipe, checkpoint.call, num_inference_steps=steps, guidance_scale=guidance_scale)
    tried = []
    progress = making.progress(len(asked) * (1 + len(variants)) + 2 * len(others))
    with claim(folder, "tune"), progress:
        facts = {"call": call, "dtype": str(pipe.dtype), "device": pipe.device.type}
        store = Store(folder, {**checkpoint.marks, **facts})
        run = partial(answer, pipe, call=call, store=store, batch=batch, progress=progress)
        plain = run(Variant("plain"), asked)
        for variant in variants:
            judged = run(variant, asked)
            making.end(progress)  # settings are not chosen on a part of the prompts
            settings = {k: v for k, v in as_dict(variant.methods[0]).items() if k != "name"}
            pair = compare(plain, judged)["overall"]
            tried.append({"settings": settings, "overall": summarise(judged)["overall"], "paired": pair})
            progress.line(f"{percent(tried[-1]['overall'])}  {variant.label or 'defaults'}")
        chosen = best(tried)
        if others:
            variant = variants[tried.index(chosen)]
            before, after = run(Variant("plain"), others), run(variant, others)
            making.end(progress)
            chosen = {**chosen, "confirmed": confirmation(confirm, before, after)}
    found = {"suite": "tuning", "n": n, "seed": seed, **checkpoint.marks, "call": call}
    write_json(
        folder / f"{method}.json",
        {**chosen, "found_on": found | {"plain": summarise(plain)["overall"]}, "tried": tried},
    )
    typer.echo(f"plain {percent(summarise(plain)['overall'])}, best {percent(chosen['overall'])}")
    if others:
        typer.echo(f"on {len(others)} other prompts: {difference(chosen['confirmed']['paired'])}")
    typer.echo(f"wrote {folder / f'{method}.json'}; put it beside the weights to make it the preset")
