"""Follow a search: the score of the best picture, and what became of each candidate."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..sampling.budget import State
from ..sampling.result import Candidate, Iterate, Result
from .line import Control

EVERY = 0.25  # seconds between two looks at a search


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane shows what became of a candidate until now.

    `evaluations` say how long it ran, and `score` is `None` until it is finished. `estimate` is the last
    score of its estimated picture, and `dropped` the step after which it ended.
    """

    name: str
    evaluations: int
    score: float | None
    estimate: float | None
    dropped: int | None
    correct: bool | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a search while it goes: its share from 0 to 1, words on it, and what was found until now.

    `curve` has the evaluations and the best score at each change, `dots` those of each finished candidate.
    `picture` is the best one, `None` where it is that of the look before.
    """

    share: float
    words: str
    curve: Sequence[tuple[int, float]]
    dots: Sequence[tuple[int, float]]
    planned: int
    lanes: Sequence[Lane]
    picture: Any = None


@dataclass
class Watched:
    """Collect what a search reports, and show it to a job now and then.

    `planned` are its evaluations, `None` where the sampler itself says them best.
    """

    control: Control
    planned: int | None
    curve: list[tuple[int, float]] = field(default_factory=list)
    dots: list[tuple[int, float]] = field(default_factory=list)
    _tried: Sequence[Any] = ()
    _over: list[Lane] = field(default_factory=list)  # of the samplers that are over
    _before: int = 0  # their evaluations
    _last: int = 0
    _seen: set[int] = field(default_factory=set)
    _shown: float = 0.0
    _best: Any = None
    _began: float = field(default_factory=time.monotonic)

    def __call__(self, state: State) -> None:
        """Take a state of the search."""
        if state.tried is not self._tried:  # another sampler goes on
            self._over += lanes(self._tried)
            self._before += self._last
            self._tried, self._seen = state.tried, set()
        self._last = state.evaluations
        spent = self._before + state.evaluations
        self._finished(spent)
        best = max((score for score in state.best if score is not None), default=None)
        news = best is not None and (not self.curve or best > self.curve[-1][1])
        if news:
            self.curve.append((spent, best))
        now = time.monotonic()
        if news or now - self._shown > EVERY:
            self._shown = now
            self.control.show(self._look(state, spent))

    def _finished(self, spent: int) -> None:
        """Note the candidates that were finished since the last time."""
        for number, tried in enumerate(self._tried):
            if tried.score is not None and number not in self._seen:
                self._seen.add(number)
                if math.isfinite(tried.score):
                    self.dots.append((spent, tried.score))

    def _look(self, state: State, spent: int) -> Look:
        planned = max(self.planned or self._before + (state.planned or 0), spent, 1)
        share, seconds = min(spent / planned, 1.0), time.monotonic() - self._began
        words = f"{spent} of about {planned} evaluations"
        if state.steps > 1:
            words += f", step {state.step} of {state.steps}"
        if self.curve:
            words += f", best score {self.curve[-1][1]:.3f}"
        if 0.02 < share < 1:
            words += f", about {seconds / share * (1 - share):.0f} s left"
        picture = state.pictures[0] if state.pictures else None
        new = picture is not None and picture is not self._best
        self._best = picture
        shown = _pil(picture) if new else None
        known = [*self._over, *lanes(state.tried)]
        return Look(share, words, list(self.curve), list(self.dots), planned, known, shown)

    def last(self, result: Result, lanes: Sequence[Lane]) -> Look:
        """Return the look at a search that has ended."""
        best = float(result.scores[0])
        self._finished(result.cost)
        self.curve.append((result.cost, best))
        words = f"{result.cost} evaluations, best score {best:.3f}"
        return Look(1.0, words, self.curve, self.dots, result.cost, lanes)


def lanes(
    tried: Sequence[Candidate | Iterate], judged: Sequence[Any] | None = None, best: int | None = None
) -> list[Lane]:
    """Return what became of each candidate, and of each iteration, in their order."""
    found = []
    for number, each in enumerate(list(tried)):
        verdict = None if judged is None or judged[number] is None else judged[number].correct
        if isinstance(each, Iterate):
            lane = Lane(f"iteration {each.iteration}", 1, each.score, None, None, verdict, number == best)
        else:
            estimates = dict(each.estimates)
            last = estimates[max(estimates)] if estimates else None
            name = f"candidate {each.place}"
            lane = Lane(name, each.evaluations, each.score, last, each.dropped, verdict, number == best)
        found.append(lane)
    return found


def _pil(picture: Any) -> Any:
    """Return a picture `[3, H, W]` from 0 to 1, or the middle frame of a video, as an image."""
    from PIL import Image

    from ..sampling.search import as_pixels

    return Image.fromarray(as_pixels(picture))
