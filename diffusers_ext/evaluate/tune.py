"""Chooses a method's settings on tuning prompts: `python -m diffusers_ext.evaluate.tune --grid scale=[1,2]`.

The best of many settings looks better than it is. So `--confirm` compares it with the plain model again, on
tuning prompts that had no part in the choice. Reported figures use other suites still.
"""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..commands import making
from ..commands import options as opt

if TYPE_CHECKING:
    from .score import Judged
    from .suite import Question


def assignments(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """`["scale=[1, 2]", "stop=[0.5]"]` to every combination of `key=value`; `ValueError` without a list."""
    axes = []
    for text in grid:
        key, _, raw = text.partition("=")
        try:
            values = json.loads(raw)
        except ValueError:
            values = None
        if not key or not isinstance(values, list) or not values:
            raise ValueError(
                f"--grid takes key=[value, ...] with JSON values, got {text!r}; for example scale=[1,2,4]"
            )
        axes.append([f"{key}={json.dumps(v)}" for v in values])
    return list(product(*axes))


def best(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The most accurate entry; of equals the first, so the gentlest setting should come first in the grid."""
    return max(tried, key=lambda t: t["overall"]["accuracy"])


def halves(asked: Sequence["Question"], n: int) -> tuple[list["Question"], list["Question"]]:
    """The first `n` questions of each task, and the others."""
    first, others, count = [], [], Counter()
    for question in asked:
        (first if count[question.task] < n else others).append(question)
        count[question.task] += 1
    return first, others


def confirmation(n: int, plain: Sequence["Judged"], judged: Sequence["Judged"]) -> dict[str, Any]:
    """Accuracies on `n` prompts per task that had no part in the choice, and the paired difference."""
    from .score import compare, summarise

    overall = {"plain": summarise(plain)["overall"], "overall": summarise(judged)["overall"]}
    return {"n": n, **overall, "paired": compare(plain, judged)["overall"]}


def main(
    model: opt.Model = "shapes-sd3",
    method: Annotated[str, typer.Option("--method")] = "softpag",
    grid: Annotated[list[str] | None, typer.Option("--grid", help="key=[value, ...] in JSON.")] = None,
    n: Annotated[int, typer.Option("--n", help="Prompts per task to choose on.")] = 20,
    confirm: Annotated[int, typer.Option("--confirm", help="Further prompts per task for the best.")] = 0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    batch: opt.Batch = 16,
    device: opt.Device = None,
    out: opt.Out = "out/tune",
) -> None:
    """Try settings on the tuning suite and write the best ones to METHOD.json."""
    from ..call import arguments
    from ..commands.eval import model_folder
    from ..outputs.files import output_folder, write_json
    from ..settings import as_dict, build
    from .claim import claim
    from .compare import Variant
    from .run import answer
    from .score import compare, summarise
    from .store import Store
    from .suite import questions
    from .weights import marks
    from .words import difference, percent

    variants = [Variant(" ".join(a), build([method], a)) for a in assignments(grid or [])]
    asked, others = halves(questions("tuning", n + confirm, seed, opt.tasks(model)), n)
    folder, home = output_folder(out), model_folder(model)
    pipe = opt.open_model(model, device)
    call = arguments(pipe, opt.defaults(model), num_inference_steps=steps, guidance_scale=guidance_scale)
    tried = []
    watch = making.watch(len(asked) * (1 + len(variants)) + 2 * len(others))
    with claim(folder, "tune"), watch:
        store = Store(
            folder, marks(home) | {"call": call, "dtype": str(pipe.dtype), "device": pipe.device.type}
        )
        plain = answer(pipe, Variant("plain"), asked, call, store, batch, watch=watch)
        for variant in variants:
            judged = answer(pipe, variant, asked, call, store, batch, watch=watch)
            making.end(watch)  # settings are not chosen on a part of the prompts
            settings = {k: v for k, v in as_dict(variant.methods[0]).items() if k != "name"}
            pair = compare(plain, judged)["overall"]
            tried.append({"settings": settings, "overall": summarise(judged)["overall"], "paired": pair})
            watch.line(f"{percent(tried[-1]['overall'])}  {variant.label or 'defaults'}")
        chosen = best(tried)
        if others:
            variant = variants[tried.index(chosen)]
            before, after = (
                answer(pipe, v, others, call, store, batch, watch=watch) for v in (Variant("plain"), variant)
            )
            making.end(watch)
            chosen = {**chosen, "confirmed": confirmation(confirm, before, after)}
    found = {"suite": "tuning", "n": n, "seed": seed, **marks(home), "call": call}
    write_json(
        folder / f"{method}.json",
        {**chosen, "found_on": found | {"plain": summarise(plain)["overall"]}, "tried": tried},
    )
    typer.echo(f"plain {percent(summarise(plain)['overall'])}, best {percent(chosen['overall'])}")
    if others:
        typer.echo(f"on {len(others)} other prompts: {difference(chosen['confirmed']['paired'])}")
    typer.echo(f"wrote {folder / f'{method}.json'}; put it beside the weights to make it the preset")


if __name__ == "__main__":
    typer.run(main)
