"""Turn pictures into numbers: ground-truth verdicts, accuracies per task, differences at equal seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..sampling.clip import Clip
from ..zoo.world.captions import parse
from ..zoo.world.scenes import SIZE
from ..zoo.world.suites import TASKS
from .statistics import accuracy, paired

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..sampling.items import Picture
    from ..zoo.world.captions import Spec
    from ..zoo.world.detect import Verdict
    from ..zoo.world.motion import Script
    from ..zoo.world.track import ClipVerdict


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict on one picture; `correct` is `None` if shapes world has no ground truth for it.

    `swapped` marks the failures that show exactly the objects asked for with their colours exchanged. A
    picture of a sampler has its `reward`, and its `cost` in evaluations of the denoiser.
    """

    prompt: str
    seed: int
    task: str | None
    correct: bool | None
    reason: str
    seconds: float = 0.0
    swapped: bool = False
    reward: float | None = None
    cost: float | None = None


def judge(
    image: Image | Clip, prompt: str, seed: int, seconds: float = 0.0, task: str | None = None
) -> Judged:
    """Return the verdict of the detector; there is none outside the grammar and for other sizes.

    `task` is the task of the suite that the prompt was drawn for; without it the prompt decides.
    """
    found = (_of_clip if isinstance(image, Clip) else _of_picture)(image, prompt)
    if isinstance(found, str):
        return Judged(prompt, seed, None, None, found, seconds)
    asked, seen = found
    return Judged(prompt, seed, task or asked.task, seen.correct, seen.reason, seconds, seen.swapped)


def judge_picture(picture: Picture, task: str | None = None) -> Judged:
    """Return the verdict on a picture that was made, with what it cost and its reward."""
    item = picture.item
    found = judge(picture.image, item.prompt, item.seed, picture.seconds, task)
    return replace(found, reward=picture.reward, cost=picture.cost)


def plain_data(judged: Judged) -> dict[str, Any]:
    """Return a verdict as JSON data; pictures without a sampler have no reward and no cost."""
    data = asdict(judged)
    return {k: v for k, v in data.items() if v is not None or k not in ("reward", "cost")}


def _of_picture(image: Image, prompt: str) -> tuple[Spec, Verdict] | str:
    """Return what was asked for and the verdict on a picture, or one sentence why there is none."""
    if image.size != (SIZE, SIZE):
        return f"no ground truth: not a {SIZE}x{SIZE} picture"
    try:
        spec = parse(prompt)
    except ValueError:
        return "no ground truth: the prompt is not in the grammar"
    import numpy as np

    from ..zoo.world.detect import verify  # brings scipy

    return spec, verify(np.asarray(image.convert("RGB")), spec)


def _of_clip(clip: Clip, prompt: str) -> tuple[Script, ClipVerdict] | str:
    """Return what was asked for and the verdict on a clip, or one sentence why there is none."""
    from ..zoo.world.clips import SIDE
    from ..zoo.world.motion import parse

    if clip.size != (SIDE, SIDE):
        return f"no ground truth: not a clip of {SIDE}x{SIDE} pixels"
    try:
        script = parse(prompt)
    except ValueError:
        return "no ground truth: the prompt is not in the grammar of clips"
    from ..zoo.world.track import verify_clip  # brings scipy

    return script, verify_clip(clip.frames, script)


def summarise(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return accuracies per task and overall, over the pictures with a ground truth.

    The result is `{"tasks": {task: {accuracy, low, high, n}}, "overall": {...}}`. `color_attr` also has
    `swapped`, the share of its pictures that bind the colours to the wrong shapes.
    """
    known = [j for j in judged if j.correct is not None]
    tasks: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        if own := [j for j in known if j.task == task]:
            tasks[task] = asdict(accuracy([j.correct for j in own]))
            if task == "color_attr":
                tasks[task]["swapped"] = sum(j.swapped for j in own) / len(own)
    return {"tasks": tasks, "overall": asdict(accuracy([j.correct for j in known])) if known else None}


def compare(plain: Sequence[Judged], other: Sequence[Judged]) -> dict[str, Any]:
    """Return the paired difference `other - plain` per task and overall.

    Both lists hold the same items in the same order.
    """
    if [(j.prompt, j.seed) for j in plain] != [(j.prompt, j.seed) for j in other]:
        raise ValueError(
            "a paired comparison needs the same prompts and seeds in the same order on both sides"
        )
    pairs = [
        (a, b) for a, b in zip(plain, other, strict=True) if a.correct is not None and b.correct is not None
    ]

    def of(chosen: list[tuple[Judged, Judged]]) -> dict[str, Any]:
        a, b = [p.correct for p, _ in chosen], [o.correct for _, o in chosen]
        return asdict(paired(a, b, groups=[p.prompt for p, _ in chosen]))

    tasks = [t for t in TASKS if any(a.task == t for a, _ in pairs)]
    return {
        "tasks": {t: of([p for p in pairs if p[0].task == t]) for t in tasks},
        "overall": of(pairs) if pairs else None,
    }
