"""Hold what a sampler returns: pictures, their noise and scores, and all that was tried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(slots=True)
class Candidate:
    """A start that a search tried.

    `prompt` is the number of its prompt and `place` its number in the search. `seed` is that of the generator
    that drew it, `None` if its noise was made from other noise. `score` is the reward of the finished
    picture, `each` the rewards by name, and `estimates` that of its estimated picture by step. `dropped` is
    the step after which it was dropped. `evaluations` counts what it cost. `pictures` holds its
    estimated pictures `[H, W, 3]` by step if the search keeps them. `origin` is the place of the candidate
    that it was made from.
    """

    prompt: int
    place: int
    seed: int | None
    score: float | None = None
    each: dict[str, float] = field(default_factory=dict)
    estimates: dict[int, float] = field(default_factory=dict)
    dropped: int | None = None
    evaluations: int = 0
    pictures: dict[int, Any] = field(default_factory=dict)
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class Iterate:
    """A step of an optimisation of noise: its score, the rewards by name, and the norm of the noise.

    `picture [H, W, 3]` is kept if the search keeps pictures.
    """

    prompt: int
    iteration: int
    score: float
    each: dict[str, float]
    norm: float
    picture: Any = None


@dataclass(frozen=True, slots=True)
class Result:
    """The pictures of a sampler, one for each prompt.

    `images` are PIL images, or what `output_type` asked for; of a video pipeline they are its frames. `noise
    [P, ...]` has unit variance, and `pipe(latents=...)` makes the same pictures from it, with the generators
    in `states` where the scheduler draws noise. Of `Paths`, `SVDD` and `FKSteering`, which add noise of their
    own on the way, it is the noise of the start. `scores [P]` are the weighted rewards, and `each` the
    rewards by name. `seeds` are those of the noise where a seed alone makes the picture. `history` holds
    every candidate that was tried, or every iterate. `nfe` counts evaluations of the denoiser, a row each;
    `gradients` of them were propagated back. `stopped` says why a search ended early.
    """

    images: Any
    noise: Tensor
    scores: Tensor
    each: dict[str, Tensor]
    seeds: tuple[int | None, ...]
    states: tuple[torch.Generator, ...]
    history: tuple[Candidate | Iterate, ...]
    nfe: int
    gradients: int
    scored: int
    seconds: float
    stopped: str | None = None

    @property
    def cost(self) -> int:
        """The evaluations, with those that were propagated back three times."""
        return self.nfe + 2 * self.gradients

    def costs(self) -> list[float]:
        """Return the cost of each prompt; what no candidate counts is shared evenly."""
        own = [0.0] * len(self.scores)
        for tried in self.history:
            own[tried.prompt] += getattr(tried, "evaluations", 0)
        rest = (self.cost - sum(own)) / len(own)
        return [spent + rest for spent in own]


def joined(first: Result, second: Result) -> Result:
    """Return the better picture of two results for each prompt, with the costs and histories of both."""
    wins = (second.scores > first.scores).tolist()

    def pick(a: Any, b: Any) -> list[Any]:
        return [y if win else x for x, y, win in zip(a, b, wins, strict=True)]

    def tensor(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack(pick(a, b))

    images: Any = pick(first.images, second.images)
    if isinstance(first.images, Tensor):
        images = torch.stack(images)
    elif not isinstance(first.images, list):
        images = np.stack(images)
    return Result(
        images=images,
        noise=tensor(first.noise, second.noise),
        scores=tensor(first.scores, second.scores),
        each={name: tensor(first.each[name], second.each[name]) for name in first.each},
        seeds=tuple(None if win else seed for seed, win in zip(first.seeds, wins, strict=True)),
        states=tuple(pick(first.states, second.states)),
        history=first.history + second.history,
        nfe=first.nfe + second.nfe,
        gradients=first.gradients + second.gradients,
        scored=first.scored + second.scored,
        seconds=first.seconds + second.seconds,
        stopped=second.stopped or first.stopped,
    )
