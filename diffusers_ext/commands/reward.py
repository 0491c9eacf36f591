"""Run `diffusers-ext reward`: measure how well a reward agrees with the ground truth, by kind of mistake."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt

MOST = 10_000
FEWER = "--n, --prompts and --samples make them fewer"


def reward(
    name: Annotated[
        str,
        typer.Option(
            "--reward",
            help="One of shapes-clip, clip-score, pick-score, hpsv2, image-reward, aesthetic and "
            "vqa-score, or the folder of one.",
        ),
    ] = "shapes-clip",
    suite: opt.Suite = "held-out",
    n: Annotated[int, typer.Option("--n", help="Number of pairs per kind of mistake.")] = 300,
    model: opt.Model = "shapes-sd3",
    prompts: Annotated[
        int, typer.Option("--prompts", help="Number of prompts per task that the model draws.")
    ] = 10,
    samples: Annotated[int, typer.Option("--samples", help="Number of pictures for each prompt.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Fixes prompts and noise.")] = 0,
    steps: opt.Steps = None,
    batch: opt.Batch = 16,
    device: opt.Device = None,
    out: opt.Out = "out/reward",
) -> None:
    """Measure a reward against the ground truth and write SUITE.json."""
    import torch

    from ..evaluate.preferences import check_painter, painted, preference, round_trip
    from ..evaluate.suite import questions
    from ..models.checkpoint import Checkpoint
    from ..models.fingerprint import fingerprint
    from ..models.logs import quiet_libraries
    from ..outputs.claim import claim
    from ..outputs.files import output_folder, write_json
    from ..outputs.record import versions
    from ..rewards.names import named
    from ..sampling.call import arguments

    _count("--n", n, "pairs per kind of mistake", 300)
    _count("--prompts", prompts, "prompts per task", 10)
    _count("--samples", samples, "pictures for each prompt", 8)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint, scorer = Checkpoint.resolve(model), named(name, device)
    asked = questions(suite, prompts, seed, checkpoint.tasks)
    quiet_libraries()
    _load(scorer)
    folder = output_folder(out)
    painter = checkpoint.load(device)
    check_painter(model, painter)
    call = arguments(painter, checkpoint.call, num_inference_steps=steps)
    changes = {"drawn": None, "decoded": round_trip(painter.vae)}
    place = Path(getattr(scorer, "place", name)).expanduser()  # a folder, or a name of the Hub
    with claim(folder, "reward"):
        typer.echo(
            f"scores pairs, then draws {len(asked) * samples} pictures with {model}: {FEWER}", err=True
        )
        found = {
            "reward": name,
            "weights": fingerprint(place) if place.is_dir() else str(place),
            "suite": suite,
            "n": n,
            "seed": seed,
            **preference(scorer.score, suite, n, seed, changes),
            "painted": {
                "model": model,
                "weights": checkpoint.fingerprint,
                "call": call,
                **painted(scorer.score, painter, call, asked, samples, batch),
            },
            "versions": versions(),
        }
        write_json(folder / f"{suite}.json", found)
    for line in table(found):
        typer.echo(line)
    typer.echo(f"wrote {folder / f'{suite}.json'}")


def _load(scorer: Any) -> None:
    """Score a black picture, so that weights or packages that are missing are reported before all else."""
    import torch

    try:
        scorer.score(torch.zeros(1, 3, 64, 64), ["a red circle"])
    except ImportError as error:
        raise ValueError(str(error)) from error


def _count(option: str, value: int, what: str, usual: int) -> None:
    """Raise `ValueError` with the name of the option unless its value is at least 1."""
    if not 1 <= value <= MOST:
        raise ValueError(f"{option} is the number of {what}, 1 to {MOST}, got {value}; {usual} is usual")


def table(found: dict[str, Any]) -> list[str]:
    """Write the figures of the results as lines."""
    from ..evaluate.words import FEWEST, percent
    from ..zoo.world.mistakes import KINDS

    columns = [(change, what) for change in ("drawn", "decoded") for what in ("picture", "caption")]
    lines = [f"{'mistake':<10}" + "".join(f" {f'{what}, {change}':<20}" for change, what in columns)]
    for kind in [*KINDS, "overall"]:
        cells = (f" {percent(found[change][what][kind]):<20}" for change, what in columns)
        lines.append(f"{kind:<10}" + "".join(cells))
    one = found["painted"]["overall"]
    if one["auc"] is not None:
        interval = f" ({one['low']:.0%} to {one['high']:.0%})" * (one["prompts"] >= FEWEST)
        lines.append(
            f"painted by {found['painted']['model']}: the right one of two for a prompt scores higher in "
            f"{one['auc']:.0%}{interval}, {one['prompts']} prompts"
        )
    return [line.rstrip() for line in lines]
