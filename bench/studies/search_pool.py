"""Make a pool of candidates with their estimated latents at every step, one file a prompt, and score it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusers_ext.evaluate.suite import Question
from diffusers_ext.outputs.files import replacing
from diffusers_ext.rewards.base import Reward
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.training.data.estimates import trajectories
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.detect import verify

TOGETHER = 64  # pictures decoded at a time


@dataclass(frozen=True)
class Pool:
    """Candidates of a suite.

    `finals [P, N]` are rewards, `right [P, N]` verdicts, `early [P, N, S]` rewards of estimates by name.
    """

    finals: np.ndarray
    right: np.ndarray
    early: Mapping[str, np.ndarray]
    levels: Sequence[float]


def make(pipe: Any, asked: Sequence[Question], n: int, call: Mapping[str, Any], folder: Path) -> None:
    """Write the estimates of `n` candidates of each question; files that are there stay."""
    for number, question in enumerate(asked):
        path = folder / f"{number:04d}.npz"
        if path.exists():
            continue
        made = trajectories(host(pipe, question, call), n)
        with replacing(path, parents=True) as file:
            np.savez(file, estimates=made.estimates.numpy(), ends=made.ends.numpy(), levels=made.levels)


def host(pipe: Any, question: Question, call: Mapping[str, Any]) -> HostCall:
    """Return the call of a question; candidate 0 is its plain picture."""
    dice = torch.Generator().manual_seed(question.item.seed)
    return HostCall(pipe, question.item.prompt, dice, **call)


def score(
    pipe: Any,
    asked: Sequence[Question],
    call: Mapping[str, Any],
    folder: Path,
    reward: Reward,
    early: Mapping[str, Reward],
    n: int,
    steps: Sequence[int] | None = None,
) -> Pool:
    """Score `n` finished pictures of each question by `reward`, and their estimates by those in `early`.

    Estimates are scored at `steps`, by default at all; scores of other steps are NaN.
    """
    finals, right, found = [], [], {name: [] for name in early}
    for number, question in enumerate(asked):
        with np.load(folder / f"{number:04d}.npz") as file:
            levels = file["levels"].tolist()
            estimates, ends = (torch.from_numpy(file[k][:n]) for k in ("estimates", "ends"))
        decode, text = host(pipe, question, call).decode, question.item.prompt
        pictures = _decoded(decode, ends)
        finals.append(_scores(reward, pictures, text))
        right.append([bool(verify(pixels(picture), parse(text)).correct) for picture in pictures])
        rows = {name: np.full((n, len(levels)), np.nan) for name in early}
        for step in range(len(levels)) if steps is None else steps:
            seen, known = _decoded(decode, estimates[:, step]), {}
            for name, other in early.items():
                there = other.at(levels[step])
                if there not in known:
                    known[there] = _scores(there, seen, text)
                rows[name][:, step] = known[there]
        for name, columns in rows.items():
            found[name].append(columns)
    return Pool(np.stack(finals), np.array(right), {k: np.stack(v) for k, v in found.items()}, levels)


def _decoded(decode: Any, latents: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([decode(part) for part in latents.split(TOGETHER)])


def _scores(reward: Reward, pictures: torch.Tensor, text: str) -> np.ndarray:
    with torch.no_grad():
        return reward.score(pictures, [text] * len(pictures)).numpy()


def pixels(picture: torch.Tensor) -> np.ndarray:
    """Return a picture [3, H, W] in 0..1 as bytes [H, W, 3]."""
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


def turns(asked: Sequence[Question]) -> list[Question]:
    """Return questions with the tasks in turn, so that a part of them is balanced."""
    tasks = list(dict.fromkeys(question.task for question in asked))
    own = [[question for question in asked if question.task == task] for task in tasks]
    return [question for row in zip(*own, strict=True) for question in row]
