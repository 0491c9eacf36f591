"""Make and score pictures of some noise, and find the gradient of the scores with respect to the noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MethodError
from ..rewards.base import Ensemble
from .gate import Gate
from .host_call import Starts
from .reno_levers import modules_of, on_device
from .search import Search


@dataclass(frozen=True, slots=True)
class View:
    """Pictures of some prompts with their scores.

    `pictures [R, ...]` run from 0 to 1, `total [R]` and `each` are on the CPU. `gradient()` is that of the
    total `[R, ...]` with respect to the noise of these prompts, in float32. It may be asked for once.
    """

    pictures: Tensor
    total: Tensor
    each: dict[str, Tensor]
    gradient: Callable[[], Tensor]


class Viewer:
    """Looks at noise through a pipeline and its rewards, and counts what that costs.

    `steps` is the number of steps of a call and `branches` the evaluations of a prompt in each. Gradients run
    through the last `grad_steps` calls of the denoiser; the predictions before them count as constants.
    `decoder` is an autoencoder that carries the gradients in place of the pipeline's own.
    """

    def __init__(
        self,
        search: Search,
        grad_steps: int | None = None,
        decoder: Any = None,
        one_by_one: bool = True,
        offload: bool = False,
    ) -> None:
        self.search, self.decoder = search, decoder
        self.one_by_one, self.offload = one_by_one, offload
        self.steps, self.branches = search.host.schedule()
        self.grad_steps = min(grad_steps or self.steps, self.steps)
        self.gate = Gate(len(search.host.prompts), on_spend=search.budget.check)
        self._count, self._traced = self.gate.spend, 0
        self.gate.spend = self._spend

    def cost(self, views: int, climbing: bool) -> int:
        """Return what some views of a prompt cost; all but the last are propagated back if `climbing`."""
        back = 2 * self.grad_steps * (views - 1) if climbing else 0
        return self.branches * (self.steps * views + back)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Put the gate on the denoisers, for all views."""
        with self.gate.on(self.search.host.pipe):
            yield

    def look(self, starts: Starts, rows: Sequence[int], climb: bool) -> View:
        """Make and score the pictures of the prompts in `rows`, with a graph to their noise if `climb`.

        Raises `MethodError` where the graph is cut on its way from the noise to a score.
        """
        host = self.search.host
        self.gate.alive, self._traced = rows, 0
        self.gate.keeps_graph = self.grad_steps >= self.steps
        noise = starts.noise.detach().clone().requires_grad_(climb)
        with torch.set_grad_enabled(climb):
            latents = host.run(starts.with_noise(noise), self._on_step, grad=climb)
            if len(rows) < len(noise):
                latents = latents[list(rows)]
            seen = self._decoded(latents) if climb and self.decoder is not None else host.decode(latents)
        texts = [host.prompts[i] for i in rows]
        pictures, (each, slope) = seen.detach(), self._scores(seen, texts, climb)
        if climb and self.decoder is not None:
            with torch.no_grad():
                pictures = host.decode(latents.detach())
            each, _ = self._scores(pictures, texts, False)
        self.search.budget.decoded += len(rows)
        total = self.search.rewards.total(each)
        return View(pictures, total, each, lambda: self._gradient(seen, slope, noise)[list(rows)])

    def _on_step(self, step: int, latents: Tensor) -> None:
        self.gate.keeps_graph = step + 1 >= self.steps - self.grad_steps

    def _spend(self, part: Sequence[int], each: int) -> None:
        self._count(part, each)
        if torch.is_grad_enabled() and self.gate.keeps_graph:
            self._traced += each * len(part)
        self.search.budget.spend(each * len(part))

    def _decoded(self, latents: Tensor) -> Tensor:
        pipe = copy.copy(self.search.host.pipe)
        pipe.vae = self.decoder
        return self.search.host.family.decode(pipe, latents, self.search.host.call)

    def _scores(
        self, pictures: Tensor, texts: Sequence[str], climb: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return each reward `[R]`, and the gradient of their sum with respect to the pictures if `climb`."""
        rewards = self.search.rewards
        wide = torch.promote_types(pictures.dtype, torch.float32)
        seen = pictures.detach().to(wide).requires_grad_(climb)
        each: dict[str, Tensor] = {}
        slope, sums = torch.zeros_like(seen), []
        for name, (reward, weight) in zip(rewards.names, rewards.parts, strict=True):
            alone = Ensemble([(reward, weight)])
            moved = on_device(modules_of(reward), seen.device) if self.offload else nullcontext()
            with moved, torch.set_grad_enabled(climb):
                scores = alone.each(seen, texts)[alone.names[0]]
                each[name] = scores.detach().cpu()
                if climb and not scores.requires_grad:
                    raise MethodError(without_gradient([name]))
                if climb and self.one_by_one:
                    slope += _slope(weight * scores.sum(), seen)
                elif climb:
                    sums.append(weight * scores.sum())
        if sums:
            slope = _slope(torch.stack(sums).sum(), seen)
        self.search.budget.scored += len(texts)
        return each, slope if climb else None

    def _gradient(self, pictures: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
        budget = self.search.budget
        budget.check(gradients=self._traced)
        scale = _scale(slope) if pictures.dtype is torch.float16 else 1.0
        found = None
        if pictures.requires_grad:
            slope = (slope * scale).to(pictures.dtype)
            (found,) = torch.autograd.grad(pictures, noise, slope, allow_unused=True)
        if found is None:
            raise MethodError(
                f"the pictures of {type(self.search.host.pipe).__name__} carry no gradient to the noise, "
                "since a part of it runs without a graph; take BestOfN, or fresh=True."
            )
        budget.spend(0, gradients=self._traced)
        return found.float() / scale


def _slope(score: Tensor, pictures: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(score, pictures, allow_unused=True)
    return torch.zeros_like(pictures) if found is None else found


def _scale(slope: Tensor) -> float:
    """Return the power of two that brings the largest entry to about 1, since float16 loses small numbers."""
    largest = slope.abs().max().item()
    return 2.0 ** -math.floor(math.log2(largest)) if 0 < largest < math.inf else 1.0


def without_gradient(names: Sequence[str]) -> str:
    """Return the sentence about rewards that noise cannot climb."""
    return (
        f"ReNO moves noise along the gradient of rewards, and {' and '.join(map(repr, names))} has none; "
        "leave it out, or take fresh=True or BestOfN, which need none."
    )
