"""Measure how well a reward agrees with the ground truth of shapes world.

There are two questions. The first: does the reward prefer the right picture, and the right caption, over one
that is a mistake away? Pictures are fresh drawings, and what the autoencoder makes of them. The second: among
the pictures that a model paints for one prompt, does it rank those above that the detector accepts?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..rewards.checks import to_tensor
from ..zoo.world.mistakes import KINDS
from ..zoo.world.preference import pairs, preferences
from .statistics import accuracy, bootstrap

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..zoo.world.preference import Score
    from .suite import Question


def preference(
    score: Score,
    split: str,
    n: int,
    seed: int = 0,
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor] | None] | None = None,
) -> dict[str, Any]:
    """Measure the share of `n` pairs per kind of mistake in which the right one is preferred.

    Returns `{change: {"picture": {kind: ..., "overall": ...}, "caption": ...}}`, shares with intervals.
    "picture" compares two pictures for one caption, "caption" two captions for one picture. `changes` names
    functions that are applied to the pictures first.
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
    """Estimate how likely the right one of two pictures for a prompt scores above the wrong one.

    The mean is over prompts that have both kinds of pictures; its interval is a bootstrap over prompts. Ties
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
    """Return a function that passes pictures `[B, 3, H, W]` in 0..1 through an autoencoder.

    Its results are rounded to steps of 1/255, as when saved.
    """

    def change(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            seen = vae.decode(vae.encode(2 * images.to(vae.device) - 1).latent_dist.mode()).sample
        return (((seen.clamp(-1, 1) + 1) * 127.5).round() / 255).to(images.device)

    return change


def check_painter(model: str, pipe: Any) -> None:
    """Raise `ValueError` for a pipeline that makes clips, which a reward cannot score frame by frame."""
    from ..sampling.call import makes_videos

    if makes_videos(pipe):
        raise ValueError(
            f"rewards score single pictures, and {model} makes clips; leave the reward out, or choose a "
            "model of pictures with --model"
        )


def scores_of(score: Score, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
    """Return the scores of PIL images for their prompts."""
    with torch.no_grad():
        return score(to_tensor(images), prompts).tolist()


def painted(
    score: Score,
    pipe: Any,
    call: Mapping[str, Any],
    questions: Sequence[Question],
    samples: int,
    batch: int = 16,
) -> dict[str, Any]:
    """Measure agreement with the detector, overall and per task, on `samples` pictures for each question."""
    from ..sampling.call import SEED_LIMIT
    from ..sampling.generate import generate
    from ..sampling.items import Item
    from .score import judge

    asked = [(q, (samples * q.item.seed + k) % SEED_LIMIT) for q in questions for k in range(samples)]
    scores, correct = [], []
    for pictures in generate(pipe, [Item(q.item.prompt, seed) for q, seed in asked], call, batch):
        scores += scores_of(score, [p.image for p in pictures], [p.item.prompt for p in pictures])
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
