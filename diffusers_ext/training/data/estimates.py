"""Make what a noise-aware reward learns from: estimates of pictures at every step of a teacher's calls."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ...rewards.base import Reward
from ...sampling.estimate import StepWatch, mix_at
from ...sampling.host_call import HostCall
from ...zoo.world.suites import IMAGE_TASKS, suite
from .shards import Shards

SHARD = 512  # pictures
TOGETHER = 32  # pictures that the teacher makes at a time
IMAGES = 8  # pictures of each prompt


class Trajectories(NamedTuple):
    """Hold what calls of a pipeline gave.

    `estimates [R, S, ...]` are the estimated latents after each of S steps, `levels [S]` the share of noise
    in what each step began with, `ends [R, ...]` the finished latents.
    """

    estimates: torch.Tensor
    levels: tuple[float, ...]
    ends: torch.Tensor


def trajectories(host: HostCall, n: int, first: int = 0) -> Trajectories:
    """Return the estimates of candidates `first` to `first + n` of each prompt, prompt by prompt."""
    watch = StepWatch(host.pipe.scheduler)
    found: list[torch.Tensor] = []
    levels: list[float] = []

    def look(step: int, latents: torch.Tensor) -> None:
        found.append(watch.clean().clone())
        levels.append(watch.mix.level)

    with torch.no_grad():
        ends = host.run(host.draw(n, first), look)
    return Trajectories(torch.stack(found, 1), tuple(levels), ends)


class Estimates:
    """Draw estimates of `steps` with the score of the finished picture, for train-like prompts.

    A prompt has 8 pictures. Nothing is held out or used to tune.
    """

    def __init__(
        self,
        pipe: Any,
        call: Mapping[str, Any],
        reward: Reward,
        folder: Path,
        seed: int,
        steps: Sequence[int],
        prompts: int,
    ):
        self.pipe, self.call, self.reward, self.seed = pipe, dict(call), reward, seed
        self.steps, self.texts, self.images = tuple(steps), captions(seed, prompts), IMAGES
        if prompts * IMAGES % SHARD:
            raise ValueError(
                f"estimates are kept {SHARD // IMAGES} prompts at a time, got {prompts}; take a multiple of "
                "that"
            )
        self.shards = Shards(folder, SHARD, self._make, 0, 1)

    def draw(self, prompts: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return all pictures of random prompts, those of a prompt in a row.

        They are pictures uint8 [B, S, 3, H, W], numbers of prompts [B] and scores [B].
        """
        chosen = torch.randperm(len(self.texts), generator=generator)[:prompts].tolist()
        return self.shards.take([p * IMAGES + i for p in chosen for i in range(IMAGES)])

    def levels(self) -> tuple[float, ...]:
        """Return the share of noise in what each of the steps begins with."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(self.call["num_inference_steps"])
        return tuple(mix_at(scheduler, step).level for step in self.steps)

    def _make(self, number: int, done: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(number * SHARD + done, (number + 1) * SHARD, TOGETHER):
            numbers = range(start // IMAGES, (start + TOGETHER) // IMAGES)
            dice = [torch.Generator().manual_seed(self.seed * 1_000_003 + i) for i in numbers]
            host = HostCall(self.pipe, [self.texts[i] for i in numbers], dice, **self.call)
            made = trajectories(host, IMAGES)
            prompts = [i for i in numbers for _ in range(IMAGES)]
            with torch.no_grad():
                scores = self.reward.score(host.decode(made.ends), [self.texts[i] for i in prompts])
                seen = [_bytes(host.decode(made.estimates[:, step])) for step in self.steps]
            yield {
                "pictures": np.stack(seen, 1),
                "prompt": np.array(prompts, np.int32),
                "score": scores.cpu().numpy(),
            }


def _bytes(pictures: torch.Tensor) -> np.ndarray:
    return (pictures * 255).round().byte().cpu().numpy()


def captions(seed: int, count: int) -> list[str]:
    """Return train-like captions, the tasks in turn."""
    each = -(-count // len(IMAGE_TASKS))
    found = [suite("train-like", task, each, seed) for task in IMAGE_TASKS]
    return [spec.caption for row in zip(*found, strict=True) for spec in row][:count]
