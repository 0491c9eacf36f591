"""How good a pipeline is while it trains: the share of exact pictures on tuning prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import MODELS, UNRELEASED
from ..detect import verify
from ..suites import IMAGE_TASKS, suite

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def score(
    pipe: DiffusionPipeline,
    name: str,
    prompts: int,
    *,
    split: str = "tuning",
    tasks: tuple[str, ...] = IMAGE_TASKS,
    seed: int = 0,
    **call: object,
) -> dict[str, float]:
    """Share of exact pictures per task over `prompts` prompts each, at the zoo's call defaults for `name`."""
    import torch

    call = dict((MODELS | UNRELEASED)[name].call) | call
    exact = {}
    for task in tasks:
        specs = suite(split, task, prompts, seed)
        generator = torch.Generator().manual_seed(seed)
        images = pipe([s.caption for s in specs], generator=generator, output_type="np", **call).images
        exact[task] = float(np.mean([verify(i, s).correct for i, s in zip(images, specs, strict=True)]))
    return exact
