"""Count what a search spends, stop it where its budget ends or someone asks, and show its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MethodError


class Stopped(Exception):
    """A search ends before its plan: its budget is spent, its time is over, or someone asked to stop."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class State:
    """A state is the progress of a search. `best` is by prompt, `None` before the first score.

    `tried` are the candidates and iterates until now, which the search goes on to change. `pictures` are
    those of `best`, each `[3, H, W]`, or `[T, 3, H, W]` of a video.
    """

    evaluations: int
    planned: int | None
    step: int
    steps: int
    seconds: float
    best: tuple[float | None, ...]
    tried: Sequence[Any] = ()
    pictures: tuple[Any, ...] = ()


class Budget:
    """Counts what a search spends, and ends it where it may spend no more.

    `evaluations` are rows of the denoiser, `gradients` those among them that were also propagated back,
    `scored` pictures given to rewards, `decoded` pictures made of latents for that. `limit` is the largest
    number of evaluations, a row that was propagated back counting three times: a backward pass costs about
    two forward ones. `seconds` limits the time. `stop` is asked before every group of candidates and every
    step, and ends the search where it answers true.
    """

    def __init__(
        self,
        limit: int | None = None,
        seconds: float | None = None,
        stop: Callable[[], bool] | None = None,
        watch: Callable[[State], None] | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise MethodError(f"budget is a number of evaluations, 1 or more, got {limit}; try budget=200.")
        if seconds is not None and not seconds > 0:
            raise MethodError(f"seconds must be above 0, got {seconds}; try seconds=60.")
        self.limit, self.most_seconds, self._stop, self._watch = limit, seconds, stop, watch
        self.evaluations = self.gradients = self.scored = self.decoded = 0
        self.planned: int | None = None
        self.step = self.steps = 0
        self.best: tuple[float | None, ...] = ()
        self.tried: Sequence[Any] = ()
        self.pictures: tuple[Any, ...] = ()
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def cost(self) -> int:
        """The evaluations spent, with those that were propagated back three times."""
        return self.evaluations + 2 * self.gradients

    def check(self, rows: int = 0, gradients: int = 0) -> None:
        """Raise `Stopped` if nothing, or not `rows` more with `gradients` among them, may be spent."""
        if self._stop is not None and self._stop():
            raise Stopped("someone asked to stop")
        if self.most_seconds is not None and self.seconds > self.most_seconds:
            raise Stopped(f"its {self.most_seconds:g} seconds are over")
        if self.limit is not None and self.cost + rows + 2 * gradients > self.limit:
            raise Stopped(f"its budget of {self.limit} evaluations is spent")

    def spend(self, rows: int, gradients: int = 0) -> None:
        """Count evaluations, those in `gradients` propagated back."""
        self.evaluations += rows
        self.gradients += gradients
        self.show()

    def expect(self, rows: int) -> None:
        """Plan with `rows` evaluations more, if there are none that were planned before."""
        self.planned = max(self.planned or 0, self.cost + rows)

    def show(self) -> None:
        """Show the progress to the watcher."""
        if self._watch is not None:
            now = self.cost, self.planned, self.step, self.steps, self.seconds
            self._watch(State(*now, self.best, self.tried, self.pictures))


class Bar:
    """Shows evaluations, the step of the current call and the best score in a bar."""

    def __init__(self, name: str, show: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=name, disable=not show, unit="eval", leave=False)

    def __call__(self, state: State) -> None:
        bar: Any = self._bar
        bar.total, bar.n = state.planned, state.evaluations
        found = [score for score in state.best if score is not None]
        best = f", best {max(found):.3f}" if found else ""
        bar.set_postfix_str(f"step {state.step} of {state.steps}{best}", refresh=False)
        bar.refresh()

    def close(self) -> None:
        self._bar.close()
