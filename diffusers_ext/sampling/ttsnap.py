"""Start many candidates and drop the worst ones at early steps, by the reward of their estimated pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..errors import MethodError
from ..rewards.base import Ensemble, ensemble
from ..settings.fields import setting
from .budget import Budget
from .host_call import HostCall
from .sampler import Sampler
from .search import Play, Search
from .steps import check_places, steps_at

PLAIN, AWARE = (0.35, 0.6), (0.2, 0.4)  # of the steps; a reward that knows noise ranks earlier


@dataclass(frozen=True, kw_only=True)
class TTSnap(Sampler):
    """Draws `n` candidates and keeps a part of them at some steps, by the reward of their estimates.

    TTSnap (2511.22242). At each step of `prune_at` the estimated pictures are scored, and the best part, as
    in `keep`, goes on. Steps below 1 are shares of all steps, others are numbers from 0. If left out they are
    0.35 and 0.6, or 0.2 and 0.4 if a reward has weights for noise levels. `prune_reward` scores estimates in
    place of `rewards`. With `combine="ranks"` the sum of ranks in the pool decides, not the sum of scores.

    A `budget` lowers `n` to what it pays for. Nothing is scored at a step that drops nothing.
    """

    name: ClassVar[str] = "ttsnap"
    grows: ClassVar[str] = "n"
    n: int = setting(16, "candidates", "for each prompt", bounds=(1, None))
    prune_at: Sequence[float] | None = setting(None, "steps", "after which candidates are dropped")
    keep: Sequence[float] = setting((0.4, 0.4), "share", "of the candidates that goes on, for each step")
    prune_reward: Any = None
    combine: Literal["sum", "ranks"] = setting("sum", "", "how several rewards decide together")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_places("prune_at", self.prune_at or ())
        places = PLAIN if self.prune_at is None else self.prune_at
        if len(self.keep) != len(places) or not all(0 < share <= 1 for share in self.keep):
            raise MethodError(
                f"keep takes a share above 0 and not above 1 for each of {len(places)} steps, got "
                f"{list(self.keep)}; for example keep={[0.4] * len(places)}."
            )

    def search(self, search: Search) -> None:
        """Run all candidates in one call that gets smaller on the way."""
        rewards = search.rewards if self.prune_reward is None else ensemble(self.prune_reward)
        steps, each = search.host.schedule()
        plan = self.plan(rewards, steps)
        n = self._count(search, plan, steps, each)
        if plan:
            search.watched()  # refuses a scheduler now rather than after some steps
        elif n > 1:
            warnings.warn(
                f"diffusers_ext: ttsnap drops nothing in a call of {steps} step{'s' * (steps > 1)}, so it is "
                "best-of-n here; take more steps, or best-of-n",
                stacklevel=2,
            )

        def prune(play: Play, step: int, latents: Tensor) -> None:
            kept = left(n, plan, step)
            if step in plan and kept < left(n, plan, step - 1):
                play.drop([i for own in best(play, kept, rewards) for i in own])

        search.play(self.starts(search, n), prune)

    def plan(self, rewards: Ensemble, steps: int) -> dict[int, float]:
        """Return the share that is kept after each step at which candidates are dropped."""
        if self.prune_at is not None:
            return dict(zip(steps_at("prune_at", self.prune_at, steps), self.keep, strict=True))
        places = AWARE if any(knows_noise(reward) for reward, _ in rewards.parts) else PLAIN
        # A call of a few steps has room for fewer of the usual places.
        return {
            step: share
            for place, share in zip(places, self.keep, strict=True)
            if (step := round(place * steps)) < steps - 1
        }

    def _count(self, search: Search, plan: dict[int, float], steps: int, each: int) -> int:
        """Return the largest number of candidates that a budget pays for."""
        return most(self.n, lambda n: cost(n, plan, steps) * each, self, search)

    def _begin(self, host: HostCall, budget: Budget) -> Search:
        search = super()._begin(host, budget)
        search.ranked = self.combine == "ranks"
        return search


def left(n: int, plan: dict[int, float], step: int) -> int:
    """Return how many of `n` candidates go on after a step."""
    for at, share in plan.items():
        if at <= step:
            n = max(1, round(n * share))
    return n


def cost(n: int, plan: dict[int, float], steps: int) -> int:
    """Return the calls of the denoiser for one prompt; to reach step `s`, counted from 0, takes `s + 1`."""
    places = [-1, *plan, steps - 1]
    return sum(left(n, plan, a) * (b - a) for a, b in pairwise(places))


def most(n: int, price: Callable[[int], int], sampler: Sampler, search: Search) -> int:
    """Return the largest number up to `n` whose price the budget of a prompt pays.

    Raises `MethodError` if it does not pay for one.
    """
    sampler.affordable(search, price(1))
    while sampler.budget is not None and price(n) > sampler.budget:
        n -= 1
    return n


def best(play: Play, count: int, rewards: Ensemble) -> list[list[int]]:
    """Return the best `count` rows of each prompt by their estimated pictures, best first."""
    rows = play.alive
    total, each = play.estimated(rows, rewards)
    found = []
    for prompt in range(len(play.search.host.prompts)):
        own = [k for k, i in enumerate(rows) if play.prompt(i) == prompt]
        scores = {name: values[own] for name, values in each.items()}
        found.append(play.ordered([rows[k] for k in own], total[own], scores, rewards)[:count])
    return found


def knows_noise(reward: Any) -> bool:
    """Return whether a reward has other weights for pictures that were estimated from noise."""
    return reward.at(0.5) is not reward
