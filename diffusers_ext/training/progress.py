"""Measure a pipeline while it trains: exact pictures on tuning prompts, and a sheet of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ..zoo.catalogue import MODELS
from ..zoo.world.detect import verify
from ..zoo.world.suites import IMAGE_TASKS, suite

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SHOWN = 10  # pictures of a task on the sheet
FRAME = 2  # px around a picture
RIGHT, WRONG = (27, 127, 59), (179, 38, 30)

Exact = Callable[[np.ndarray, Any], bool]  # picture [H, W, 3] or clip [T, H, W, 3] in 0..1, and its spec


class Answer(NamedTuple):
    """An answer is what a pipeline made of a prompt, float [H, W, 3] or [T, H, W, 3] in 0..1."""

    made: np.ndarray
    exact: bool


def picture_is_exact(picture: np.ndarray, spec: Any) -> bool:
    """Return the verdict of the detector."""
    return verify(picture, spec).correct


def score(
    pipe: DiffusionPipeline,
    name: str,
    prompts: int,
    sheet: Path | None = None,
    *,
    split: str = "tuning",
    tasks: tuple[str, ...] = IMAGE_TASKS,
    exact: Exact = picture_is_exact,
    seed: int = 0,
    **call: object,
) -> dict[str, float]:
    """Return the share of exact pictures per task over `prompts` prompts each, at the call of `name`.

    The first `SHOWN` of each task go on a PNG named `sheet`.
    """
    import torch

    call = dict(MODELS[name].call) | call
    answers: dict[str, list[Answer]] = {}
    for task in tasks:
        specs = suite(split, task, prompts, seed)
        generator = torch.Generator().manual_seed(seed)
        result = pipe([s.caption for s in specs], generator=generator, output_type="np", **call)
        made = result.frames if hasattr(result, "frames") else result.images
        answers[task] = [Answer(m, exact(m, s)) for m, s in zip(made, specs, strict=True)]
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        draw(answers).save(sheet)
    return {task: float(np.mean([a.exact for a in rows])) for task, rows in answers.items()}


def draw(answers: Mapping[str, Sequence[Answer]]) -> Image.Image:
    """Draw a row per task; exact pictures have a green frame, others a red one.

    A clip is shown by its first, middle and last frame, one above the other.
    """
    rows = [[_framed(a) for a in answers[task][:SHOWN]] for task in answers]
    height, width, _ = rows[0][0].shape
    canvas = np.full((len(rows) * height, max(map(len, rows)) * width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = tile
    return Image.fromarray(canvas)


def _framed(answer: Answer) -> np.ndarray:
    made = answer.made
    if made.ndim == 4:
        made = np.concatenate(made[[0, len(made) // 2, -1]])
    height, width, _ = made.shape
    tile = np.full((height + 2 * FRAME, width + 2 * FRAME, 3), RIGHT if answer.exact else WRONG, np.uint8)
    tile[FRAME:-FRAME, FRAME:-FRAME] = (made.clip(0, 1) * 255).round()
    return np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=255)
