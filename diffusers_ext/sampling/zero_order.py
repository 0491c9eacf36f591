"""Move noise towards the best of its neighbours, again and again, without gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import MethodError
from ..settings.fields import setting
from .host_call import Starts
from .sampler import Sampler
from .search import Play, Search


@dataclass(frozen=True, kw_only=True)
class ZeroOrder(Sampler):
    """Draws neighbours of a pivot, and takes the best of them as the next pivot.

    Zero-order search (2501.09732). A neighbour has the norm of the pivot and the cosine `tau` with it. If no
    neighbour beats the pivot, the next pivot is drawn afresh. The first call has the pivot and its
    neighbours. Each later one has `neighbours` candidates, one of which is the pivot if that is new.

    A `budget` ends the rounds early. The best picture of all rounds is returned.
    """

    name: ClassVar[str] = "zero-order"
    grows: ClassVar[str] = "rounds"
    neighbours: int = setting(4, "candidates", "in each round", bounds=(1, None))
    rounds: int = setting(4, "rounds", "of moving to the best neighbour", bounds=(1, None))
    tau: float = setting(0.95, "cosine", "of a neighbour and its pivot", bounds=(-1, 1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 < self.tau < 1:
            raise MethodError(f"tau is a cosine between -1 and 1, got {self.tau}; 0.95 is published.")

    def search(self, search: Search) -> None:
        """Run the rounds, a call each."""
        steps, each = search.host.schedule() if self.budget is not None else (0, 0)
        count = min(1 + self.neighbours * self.rounds, self.affordable(search, steps * each))
        lines = [Line(search, prompt) for prompt in range(len(search.host.prompts))]
        first = self.starts(search, 1)
        for prompt, line in enumerate(lines):
            line.begin(first.take([prompt]))
        size, fresh = self.neighbours + 1, 1
        while count > 0:
            size = min(size, count)
            starts, origins = _together([line.candidates(size, self.tau) for line in lines])
            play = search.play(starts, origins=origins)
            count, size = count - size, self.neighbours
            for line in lines:
                line.move(play)
            if count > 0 and any(line.lost for line in lines):
                drawn = self.starts(search, 1, fresh)
                fresh += 1
                for prompt, line in enumerate(lines):
                    if line.lost:
                        line.begin(drawn.take([prompt]))


class Line:
    """The search of one prompt: its pivot, with the score of it once it has run."""

    def __init__(self, search: Search, prompt: int) -> None:
        self.search, self.prompt = search, prompt
        self.dice = search.host.dice(prompt, "zero-order")
        self.score: float | None = None
        self.lost = False

    def begin(self, pivot: Starts) -> None:
        """Go on from noise that has not run; it will be the next candidate of the prompt."""
        self.pivot, self.place = pivot, self.search.places(self.prompt)
        self.score, self.lost = None, False

    def candidates(self, count: int, tau: float) -> list[tuple[Starts, int | None]]:
        """Return starts, each with the place of the pivot it comes from; a new pivot is the first itself."""
        new = self.score is None
        found: list[tuple[Starts, int | None]] = [(self.pivot, None)] if new else []
        noise = [neighbour(self.pivot.noise, tau, self.dice) for _ in range(count - new)]
        return found + [(self.pivot.with_noise(x), self.place) for x in noise]

    def move(self, play: Play) -> None:
        """Go to the best candidate, or give the pivot up if no neighbour beats it."""
        rows = [i for i in play.rows(self.prompt) if math.isfinite(play.candidates[i].score)]
        row = max(rows, key=lambda i: play.candidates[i].score)
        found = play.candidates[row]
        if self.score is None:
            self.lost = found.place == self.place and play.per_prompt > 1
        else:
            self.lost = found.score <= self.score
        if not self.lost:
            self.pivot, self.place, self.score = play.starts.take([row]), found.place, found.score


def _together(lists: Sequence[list[tuple[Starts, int | None]]]) -> tuple[Starts, list[int | None]]:
    """Return the starts of all prompts as one, and the places that they come from."""
    starts = [start for found in lists for start, _ in found]
    joined = Starts(
        torch.cat([start.noise for start in starts]),
        tuple(start.seeds[0] for start in starts),
        tuple(start.states[0] for start in starts),
    )
    return joined, [place for found in lists for _, place in found]


def neighbour(pivot: Tensor, tau: float, dice: torch.Generator) -> Tensor:
    """Return noise `[1, ...]` with the norm of `pivot` and the cosine `tau` with it."""
    axis = pivot.double().flatten().cpu()
    norm = axis.norm()
    axis = axis / norm
    other = torch.randn(axis.shape, generator=dice, dtype=torch.float64)
    other -= (other @ axis) * axis
    other /= other.norm()
    moved = norm * (tau * axis + math.sqrt(1 - tau**2) * other)
    return moved.view(pivot.shape).to(pivot)
