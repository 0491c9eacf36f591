"""Move noise step by step to a higher reward, each prompt on its own, and keep the best of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..errors import MethodError
from .budget import Stopped
from .host_call import Starts
from .reno_view import View, Viewer
from .result import Candidate, Iterate
from .search import Best, Search, as_pixels


class Options(Protocol):
    """Name what an ascent asks of the sampler that it belongs to."""

    clip: float | None
    norm_weight: float
    patience: int | None
    fresh: bool
    micro_batch: int | None

    def starts(self, search: Search, n: int, first: int = 0) -> Starts: ...

    def optimiser_of(self, noise: Tensor) -> torch.optim.Optimizer: ...


def prior_gradient(noise: Tensor) -> Tensor:
    """Return the gradient `[B, ...]` of the prior on the length of each noise.

    The prior is `K(e) = |e|^2 / 2 - (d - 1) log |e|` over its `d` numbers, the negative log density of the
    length of a normal vector, which is least at `|e| = sqrt(d - 1)`. Paper: ReNO (2406.04312), section 3.
    """
    length = norms(noise)
    size = noise[0].numel()
    return noise * (1 - (size - 1) / length.square())


def norms(noise: Tensor) -> Tensor:
    """Return the length of each noise in float32, `[B, 1, ...]`."""
    return noise.float().flatten(1).norm(dim=1).view(-1, *[1] * (noise.ndim - 1))


def clipped(gradient: Tensor, most: float | None) -> Tensor:
    """Shorten the gradient of each prompt to the length `most`; shorter ones stay as they are."""
    if most is None:
        return gradient
    return gradient * (most / (norms(gradient) + 1e-6)).clamp(max=1)


class Ascent:
    """Runs `n` iterations: look at the noise, keep what is best, and move the noise.

    `active` are the prompts whose noise still moves. One that gave a number that is not finite stays at its
    best, as does one that found nothing better for `patience` iterations.
    """

    def __init__(self, options: Options, search: Search, viewer: Viewer, n: int) -> None:
        self.options, self.search, self.viewer, self.n = options, search, viewer, n
        self.active = list(range(len(search.host.prompts)))
        self.since = [0] * len(self.active)
        self.broken = False

    def run(self) -> None:
        """Run; raises `Stopped` where no noise is left to move, or the budget ends, before `n` iterations."""
        starts = self.options.starts(self.search, 1)
        noise = starts.noise.clone().contiguous()
        optimiser = self.options.optimiser_of(noise)
        with self.viewer.ready():
            for i in range(self.n):
                if self.options.fresh and i:
                    starts = self.options.starts(self.search, 1, i)
                    noise = starts.noise
                self.search.budget.step, self.search.budget.steps = i + 1, self.n
                moved = i > 0 and not self.options.fresh
                now = starts.with_noise(noise) if moved else starts
                gradient = self._iteration(i, now, last=i == self.n - 1)
                if not self.active and i < self.n - 1:
                    raise Stopped(self._why())
                if self.options.fresh or i == self.n - 1:
                    continue
                self._move(noise, gradient, optimiser)

    def _iteration(self, i: int, starts: Starts, last: bool) -> Tensor:
        """Look at all noise that moves, a group of prompts at a time, and return its gradient `[P, ...]`."""
        gradient = torch.zeros_like(starts.noise)
        climb = not (last or self.options.fresh)
        for rows in self._groups():
            view = self.viewer.look(starts, rows, climb)
            self._note(i, rows, starts, view)
            going = [row for row in rows if row in self.active]
            if not climb or not going:
                continue
            found = view.gradient()
            for place, row in enumerate(rows):
                if not torch.isfinite(found[place]).all():
                    self._drop(row, broken=True)
                elif row in going:
                    gradient[row] = -found[place]
        return gradient

    def _groups(self) -> Iterator[list[int]]:
        rows = list(self.active)
        size = self.options.micro_batch or len(rows)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def _note(self, i: int, rows: Sequence[int], starts: Starts, view: View) -> None:
        """Record an iterate of each prompt, and keep the picture if it is the best of its prompt."""
        search, lengths = self.search, norms(starts.noise).flatten()
        for place, row in enumerate(rows):
            score = float(view.total[place])
            each = {name: float(scores[place]) for name, scores in view.each.items()}
            picture = as_pixels(view.pictures[place]) if search.keep_pictures else None
            search.candidates.append(Iterate(row, i, score, each, float(lengths[row]), picture))
            held = search.best[row]
            if not math.isfinite(score):
                if held is None:
                    raise MethodError(_not_finite(each, search.host.prompts[row]))
                self._drop(row, broken=not self.options.fresh)
            elif held is None or score > held.score:
                seed = starts.seeds[row] if i == 0 or self.options.fresh else None
                found = Candidate(row, i, seed, score, each)
                start = starts.take([row]).with_noise(starts.noise[row : row + 1].detach().clone())
                search.keep(row, Best(score, each, view.pictures[place].clone(), start, found))
                self.since[row] = 0
            else:
                self.since[row] += 1
                if self.options.patience is not None and self.since[row] >= self.options.patience:
                    self._drop(row)

    def _drop(self, row: int, broken: bool = False) -> None:
        self.broken |= broken
        if row in self.active:
            self.active.remove(row)

    def _move(self, noise: Tensor, gradient: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Step down the loss: the reward with the other sign, and the prior on the length."""
        weight = self.options.norm_weight
        loss = gradient + weight * prior_gradient(noise) if weight else gradient
        noise.grad = clipped(loss, self.options.clip)
        optimiser.step()
        for row in range(len(noise)):
            if row not in self.active:
                noise[row] = self.search.best[row].start.noise[0]

    def _why(self) -> str:
        if self.broken:
            return "a score or a gradient was not finite"
        return f"{self.options.patience} iterations in a row found nothing better"


def _not_finite(each: dict[str, float], prompt: str) -> str:
    names = [name for name, score in each.items() if not math.isfinite(score)]
    return (
        f"{' and '.join(names) or 'the sum of the rewards'} gave no finite score for the first picture of "
        f"{prompt[:60]!r}; check the reward, or the pictures in float32."
    )
