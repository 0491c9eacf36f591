"""How well a reward agrees with the ground truth: `python -m diffusers_ext.evaluate.reward --suite held-out`.

Two questions. Does it prefer the right picture, and the right caption, over one that is a mistake away,
in fresh drawings and in what the autoencoder makes of them? And of the pictures that a model paints for one
prompt, does it rank those that the detector accepts above the others?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..commands import options as opt
from ..zoo.mistakes import KINDS
from ..zoo.preference import pairs, preferences
from .statistics import accuracy, bootstrap

if TYPE_CHECKING:
    import torch

    from ..zoo.preference import Score
    from .suite import Question


def preference(
    score: Score,
    split: str,
    n: int,
    seed: int = 0,
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor] | None] | None = None,
) -> dict[str, Any]:
    """Share of `n` pairs per kind of mistake in which the right one is preferred, with intervals.

    `{change: {"picture": {kind: ..., "overall": ...}, "caption": ...}}`; "picture" compares two pictures for
    one caption, "caption" two captions for one picture. `changes` names what is done to the pictures first.
    """
    changes = changes or {"drawn": None}
    found: dict[str, Any] = {}
    drawn = {kind: pairs(split, kind, n, seed) for kind in KINDS}
    for name, change in changes.items():
        both = {kind: preferences(score, drawn[kind], change) for kind in KINDS}
        found[name] = {
            what: {
                **{kind: asdict(accuracy(both[kind][i])) for kind in KINDS},
                "overall": asdict(accuracy([r for kind in KINDS for r in both[kind][i]])),
            }
            for i, what in enumerate(("picture", "caption"))
        }
    return found


def agreement(scores: Sequence[float], correct: Sequence[bool], prompts: Sequence[str]) -> dict[str, Any]:
    """Chance that of two pictures for one prompt, one right and one wrong, the right one scores higher.

    The mean over prompts that have both kinds of pictures, and its interval when prompts are drawn anew; ties
    count half. `auc` is `None` when no prompt has both.
    """
    values, right = np.asarray(scores, float), np.asarray(correct, bool)
    asked = np.asarray(prompts)
    areas = []
    for prompt in dict.fromkeys(prompts):
        good, bad = values[(asked == prompt) & right], values[(asked == prompt) & ~right]
        if len(good) and len(bad):
            above = good[:, None] - bad[None]
            areas.append(float(((above > 0) + 0.5 * (above == 0)).mean()))
    if not areas:
        return {"auc": None, "low": None, "high": None, "prompts": 0}
    low, high = bootstrap(areas, range(len(areas)))
    return {"auc": float(np.mean(areas)), "low": low, "high": high, "prompts": len(areas)}


def round_trip(vae: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pictures [B, 3, H, W] in 0..1 to what an autoencoder makes of them, in steps of 1/255 as when saved."""
    import torch

    def change(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            seen = vae.decode(vae.encode(2 * images - 1).latent_dist.mode()).sample
        return ((seen.clamp(-1, 1) + 1) * 127.5).round() / 255

    return change


def main(
    reward: Annotated[str, typer.Option("--reward", help="Name in the zoo, or a folder.")] = "shapes-clip",
    suite: Annotated[str, typer.Option("--suite", help="train-like, held-out or tuning.")] = "held-out",
    n: Annotated[int, typer.Option("--n", help="Pairs per kind of mistake.")] = 300,
    model: opt.Model = "shapes-sd3",
    prompts: Annotated[int, typer.Option("--prompts", help="Prompts per task that the model paints.")] = 10,
    samples: Annotated[int, typer.Option("--samples", help="Pictures for each prompt.")] = 8,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    steps: opt.Steps = None,
    batch: opt.Batch = 16,
    device: opt.Device = None,
    out: opt.Out = "out/reward",
) -> None:
    """Measure a reward against the ground truth and write SUITE.json."""
    from ..call import arguments
    from ..commands.eval import model_folder
    from ..outputs.files import output_folder, write_json
    from ..outputs.record import versions
    from ..zoo.reward import ShapesCLIP
    from .suite import questions
    from .weights import fingerprint

    folder = output_folder(out)
    home, painter = reward_folder(reward), opt.open_model(model, device)
    check_painter(model, painter)
    scorer = ShapesCLIP(home, device)
    asked = questions(suite, prompts, seed, opt.tasks(model))
    call = arguments(painter, opt.defaults(model), num_inference_steps=steps)
    changes = {"drawn": None, "decoded": round_trip(painter.vae)}
    found = {
        "reward": reward,
        "weights": fingerprint(home),
        "suite": suite,
        "n": n,
        "seed": seed,
        **preference(scorer.score, suite, n, seed, changes),
        "painted": {
            "model": model,
            "weights": fingerprint(model_folder(model)),
            "call": call,
            **painted(scorer.score, painter, call, asked, samples, batch),
        },
        "versions": versions(),
    }
    write_json(folder / f"{suite}.json", found)
    for line in table(found):
        typer.echo(line)
    typer.echo(f"wrote {folder / f'{suite}.json'}")


def check_painter(model: str, pipe: Any) -> None:
    """Raises `ValueError` for a pipeline that makes clips, which a reward cannot judge frame by frame."""
    from ..call import makes_videos

    if makes_videos(pipe):
        raise ValueError(
            f"rewards score single pictures, and {model} makes clips; leave the reward out, or choose a "
            "model of pictures with --model"
        )


def painted(
    score: Score,
    pipe: Any,
    call: Mapping[str, Any],
    questions: Sequence[Question],
    samples: int,
    batch: int = 16,
) -> dict[str, Any]:
    """Agreement with the detector, overall and per task, on `samples` pictures for each question."""
    import torch

    from ..call import SEED_LIMIT
    from .generate import Item, generate
    from .score import judge

    asked = [(q, (samples * q.item.seed + k) % SEED_LIMIT) for q in questions for k in range(samples)]
    scores, correct = [], []
    for pictures in generate(pipe, [Item(q.item.prompt, seed) for q, seed in asked], call, batch):
        images = torch.from_numpy(np.stack([np.asarray(p.image) for p in pictures])).permute(0, 3, 1, 2)
        with torch.no_grad():
            scores += score(images.float() / 255, [p.item.prompt for p in pictures]).tolist()
        correct += [bool(judge(p.image, p.item.prompt, p.item.seed).correct) for p in pictures]

    def of(task: str | None) -> dict[str, Any]:
        own = [i for i, (q, _) in enumerate(asked) if task in (None, q.task)]
        prompts = [asked[i][0].item.prompt for i in own]
        return agreement([scores[i] for i in own], [correct[i] for i in own], prompts)

    return {
        "pictures": len(asked),
        "correct": float(np.mean(correct)),
        "tasks": {task: of(task) for task in dict.fromkeys(q.task for q in questions)},
        "overall": of(None),
    }


def reward_folder(name: str) -> Path:
    """Folder of a reward of the zoo or a folder as it is."""
    from ..zoo import catalogue

    return catalogue.path(name) if name in catalogue.REWARDS else Path(name)


def table(found: dict[str, Any]) -> list[str]:
    """The printed figures of the results."""
    from .words import FEWEST, percent

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


if __name__ == "__main__":
    typer.run(main)
