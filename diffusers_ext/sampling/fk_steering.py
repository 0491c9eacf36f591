"""Steer particles: at some steps, those whose estimated pictures score well replace the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import MethodError
from ..settings.fields import setting
from .estimate import mix_at
from .renoise import ancestral, copy_rows
from .sampler import Sampler
from .search import Play, Search

Potential = Literal["diff", "max", "add", "rt"]
STOCHASTIC = (
    "DDIM with eta above 0, DDPM, an ancestral or SDE scheduler, or renoise=1 for a scheduler without noise"
)


@dataclass(frozen=True, kw_only=True)
class FKSteering(Sampler):
    """Runs `n` particles together and draws them again by weights, from the rewards of their estimates.

    Feynman-Kac steering (2501.06848). The weight at step `t` is `exp(lam * g)`, where `g` is by `potential`:
    the gain in reward since the last time (diff), the highest reward so far (max), the sum so far (add), or
    the reward (rt). Particles are drawn again after every `every`-th step from `start` to `stop`. With `ess`
    that happens only where the effective number of particles is below that share of `n`, and weights add up
    until then. The finished picture with the highest reward is returned.

    Copies of a particle part ways by the noise of later steps. Where a scheduler adds none, `renoise` lets
    each step draw a part of its noise afresh: 1 is as much as DDPM does.
    """

    name: ClassVar[str] = "fk-steering"
    grows: ClassVar[str] = "n"
    n: int = setting(4, "particles", "for each prompt", bounds=(1, None))
    lam: float = setting(10.0, "factor", "of the reward in the exponent, above 0 or 0", bounds=(0, None))
    every: int = setting(5, "steps", "between two draws", bounds=(1, None))
    start: int = setting(5, "step", "after which particles are first drawn again", bounds=(0, None))
    stop: int = setting(30, "step", "after which they no longer are", bounds=(0, None))
    potential: Potential = setting("diff", "", "what the weights are made of")
    resample: Literal["stratified", "multinomial"] = setting("stratified", "", "how particles are drawn")
    ess: float | None = setting(None, "share", "of effective particles; always if left out", bounds=(0, 1))
    renoise: float = setting(0.0, "share", "of the noise of DDPM drawn afresh in each step", bounds=(0, 1))

    def search(self, search: Search) -> None:
        """Run all particles in one call."""
        host = search.host
        steps, each = host.schedule()
        n = min(self.n, self.affordable(search, steps * each))
        # The last step adds no noise, so copies that the scheduler should part need one step more before it.
        end = steps - 1 if self.renoise else steps - 2
        points = range(self.start, min(self.stop + 1, end), self.every)
        if n > 1 and not points:
            raise MethodError(
                f"{self.name} draws particles again from step start={self.start} to stop={self.stop}, and "
                f"before the last of {steps} steps there is none of these; lower start, or take more steps."
            )
        watch = search.watched()
        pools = [Pool(self, host.dice(p, self.name), n) for p in range(len(host.prompts))]

        def steer(play: Play, step: int, latents: Tensor) -> Tensor | None:
            if n == 1 or step >= steps - 1:
                return None
            if step == 0 and not self.renoise and not watch.draws:
                raise MethodError(
                    f"copies of a particle must part ways, and {type(host.pipe.scheduler).__name__} adds no "
                    f"noise in its steps here; take {STOCHASTIC}."
                )
            sources = list(play.alive)
            if step in points:
                sources = redrawn(play, pools)
                copy_rows(host.pipe.scheduler, sources, latents.shape)
            if not self.renoise:
                return latents[sources] if step in points else None
            fresh = torch.cat([pool.noise(latents) for pool in pools])
            mixes = watch.mix, mix_at(host.pipe.scheduler, step + 1)
            play.mixed()
            made = ancestral(watch.clean(sources), watch.noise(sources), *mixes, fresh, self.renoise)
            return made.to(latents)

        search.play(self.starts(search, n), steer)


class Pool:
    """The particles of one prompt: their weights since the last draw, and the rewards they had then."""

    def __init__(self, how: FKSteering, dice: torch.Generator, n: int) -> None:
        self.how, self.dice, self.n = how, dice, n
        self.weights = torch.zeros(n, dtype=torch.float64)
        self.before: Tensor | None = None

    def draw(self, rewards: Tensor) -> list[int]:
        """Return the particles `[n]` that go on, by their rewards at this step; NaN never goes on."""
        gain, before = potential(self.how.potential, rewards.double(), self.before)
        self.weights += self.how.lam * gain
        share = torch.softmax(self.weights.nan_to_num(nan=-torch.inf), 0)
        if self.how.ess is not None and 1 / share.square().sum() >= self.how.ess * self.n:
            self.before = before
            return list(range(self.n))
        chosen = settled(drawn(share, self.how.resample, self.dice))
        self.weights.zero_()
        self.before = before[chosen]
        return chosen

    def noise(self, latents: Tensor) -> Tensor:
        """Return fresh noise `[n, ...]`."""
        shape = self.n, *latents.shape[1:]
        return torch.randn(shape, generator=self.dice).to(latents.device)


def redrawn(play: Play, pools: list[Pool]) -> list[int]:
    """Draw the particles of each prompt again; return the row that each row goes on from."""
    total, each = play.estimated(play.alive)
    sources: list[int] = []
    for prompt, pool in enumerate(pools):
        rows = play.rows(prompt)
        part = slice(rows[0], rows[-1] + 1)
        play.ordered(rows, total[part], {name: v[part] for name, v in each.items()})  # refuses all NaN
        sources += [rows[k] for k in pool.draw(total[part])]
    for row, source in enumerate(sources):
        if row != source:
            play.branch(row, source)
    return sources


def potential(kind: Potential, now: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the exponent `[n]` of the weights, without lam, and what the next one is compared with.

    `now [n]` are the rewards at this step, `before [n]` what the last step returned here. Rewards that are
    no numbers count as minus infinity.
    """
    now = torch.where(torch.isfinite(now), now, -torch.inf)
    if kind == "diff":
        # Before the first time all particles are alike, so that it is a constant.
        return (now if before is None else now - before), now
    if kind == "max":
        now = now if before is None else torch.maximum(now, before)
    elif kind == "add":
        now = now if before is None else now + before
    return now, now


def drawn(share: Tensor, how: str, dice: torch.Generator) -> list[int]:
    """Draw as many particles as there are, each in proportion to its share `[n]`.

    Stratified: one from each n-th of the total, so that equal shares come once each.
    """
    n = len(share)
    if how == "multinomial":
        return torch.multinomial(share, n, replacement=True, generator=dice).tolist()
    places = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=dice, dtype=torch.float64)) / n
    edges = share.cumsum(0)
    return torch.searchsorted(edges / edges[-1], places, right=True).clamp(max=n - 1).tolist()


def settled(chosen: list[int]) -> list[int]:
    """Order chosen particles so that each of them stays where it is, and further copies fill the gaps."""
    more = list(chosen)
    for kept in set(chosen):
        more.remove(kept)
    return [k if k in chosen else more.pop() for k in range(len(chosen))]
