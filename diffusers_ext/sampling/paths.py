"""Branch candidates in the middle of a call: go back a little with fresh noise, keep the best branches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import MethodError
from ..settings.fields import setting
from .estimate import mix_at
from .host_call import HostCall, Starts
from .renoise import back
from .restart import beginning_at, check_restart, unscaled
from .sampler import Sampler
from .search import Play, Search
from .steps import check_places, steps_at
from .ttsnap import best


class _Reached(Exception):
    """A call came to the step at which its candidates branch."""


@dataclass(frozen=True, kw_only=True)
class Paths(Sampler):
    """Runs `n` candidates, and at some steps goes on from `copies` noisier versions of each.

    Search over paths (2501.09732). After each step of `branch_at` noise is added to the latents of a
    candidate, `copies` times, until they are as noisy as `back_by` steps before. The copies run on to the
    next such step, where the best `n` by their estimated pictures are kept, and at last to the end. Steps
    below 1 are shares of all steps, others are numbers from 0.

    A `budget` lowers `n` to what it pays for. Methods of a session count the steps of each part from 0.
    """

    name: ClassVar[str] = "paths"
    grows: ClassVar[str] = "n"
    n: int = setting(4, "candidates", "for each prompt that are kept where paths branch", bounds=(1, None))
    copies: int = setting(2, "copies", "of each candidate", bounds=(1, None))
    branch_at: Sequence[float] = setting((0.4, 0.6), "steps", "after which candidates are copied")
    back_by: float = setting(0.2, "steps", "that are taken back, below 1 a share of all", bounds=(0, None))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_places("branch_at", self.branch_at)
        if not self.branch_at:
            raise MethodError("branch_at takes one step or more, got none; for example (0.4, 0.6).")
        if self.back_by >= 1 and self.back_by != int(self.back_by):
            raise MethodError(
                f"back_by takes a number of steps, or a share of them below 1, got {self.back_by}; try 2."
            )
        if self.copies > 1 and self.back_by == 0:
            raise MethodError(
                f"copies of a candidate differ by the noise that is added, got copies={self.copies} and "
                "back_by=0; go back by one step or more."
            )

    def search(self, search: Search) -> None:
        """Run a call up to each step at which paths branch, and one to the end."""
        host = search.host
        check_restart(host.pipe.scheduler)
        search.watched()
        steps, each = host.schedule()
        parts = self.parts(steps)
        n = min(self.n, self.affordable(search, each * self.cost(parts, steps)))
        starts = first = self.starts(search, n)
        if n * self.copies == 1:
            search.play(starts)
            return
        dice = [host.dice(prompt, self.name) for prompt in range(len(host.prompts))]
        roots, origins, at = list(range(len(starts.noise))), None, 0
        for reached, target in parts:
            play, latents = _run_to(search, starts, reached, origins, first.take(roots), at)
            for candidate in play.candidates:  # the copies go on
                candidate.dropped = play.step
            rows = [i for i in _kept(play, n) for _ in range(self.copies)]
            noise = self._noisier(host, latents[rows], dice, reached + 1 - at, target - at)
            states = tuple(_child(dice[play.prompt(i)]) for i in rows)
            origins = [play.candidates[i].place for i in rows]
            roots, at = [roots[i] for i in rows], target
            starts = Starts(noise, tuple(g.initial_seed() for g in states), states)
        with beginning_at(host.pipe.scheduler, at):
            search.play(starts, None, origins, lines=first.take(roots), at=at)

    def parts(self, steps: int) -> list[tuple[int, int]]:
        """Return, for each place where paths branch, the step after which they do and the step they go on at.

        Raises `MethodError` where a call of `steps` has no such steps.
        """
        less = int(self.back_by) if self.back_by >= 1 else max(round(self.back_by * steps), self.back_by > 0)
        found = [(reached, reached + 1 - less) for reached in steps_at("branch_at", self.branch_at, steps)]
        if found[0][1] < 1:
            raise MethodError(
                f"back_by must leave the paths after the first step, got {less} steps back after step "
                f"{found[0][0]}; branch later, or go back less."
            )
        return found

    def cost(self, parts: Sequence[tuple[int, int]], steps: int) -> int:
        """Return the calls of the denoiser for one prompt and one of its `n` candidates."""
        ends = [reached + 1 for reached, _ in parts[1:]] + [steps]
        return (
            parts[0][0]
            + 1
            + self.copies * sum(end - target for end, (_, target) in zip(ends, parts, strict=True))
        )

    def _noisier(
        self, host: HostCall, latents: Tensor, dice: Sequence[torch.Generator], now: int, then: int
    ) -> Tensor:
        """Return latents at step `now` of the present call as the start of a call at step `then`."""
        scheduler, shape = host.pipe.scheduler, (len(latents) // len(dice), *latents.shape[1:])
        fresh = torch.cat([torch.randn(shape, generator=own) for own in dice]).to(latents.device)
        mixes = mix_at(scheduler, now), mix_at(scheduler, then)
        return unscaled(scheduler, then, back(latents.float(), *mixes, fresh))


def _run_to(
    search: Search,
    starts: Starts,
    reached: int,
    origins: Sequence[int | None] | None,
    lines: Starts,
    at: int,
) -> tuple[Play, Tensor]:
    """Run a call from step `at` until after step `reached`; return it with its latents there."""
    found: list[tuple[Play, Tensor]] = []

    def stop(play: Play, step: int, latents: Tensor) -> None:
        if at + step == reached:
            found.append((play, latents))
            raise _Reached

    with suppress(_Reached), beginning_at(search.host.pipe.scheduler, at):
        search.play(starts, stop, origins, lines=lines, at=at)
    return found[0]


def _kept(play: Play, n: int) -> list[int]:
    """Return the best `n` rows of each prompt; a row comes again where too few have a score."""
    if play.per_prompt <= n:
        return play.alive
    return [own[k % len(own)] for own in best(play, n, play.search.rewards) for k in range(n)]


def _child(dice: torch.Generator) -> torch.Generator:
    """Return a generator of its own for a copy, for schedulers that draw noise."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=dice)))
