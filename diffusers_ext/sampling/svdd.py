"""Choose at every step among several noisy continuations, by the reward of what they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..settings.fields import setting
from .estimate import mix_at
from .renoise import ancestral
from .sampler import Sampler
from .search import Play, Search


@dataclass(frozen=True, kw_only=True)
class SVDD(Sampler):
    """Makes `children` continuations of one picture at every step and goes on from one of them.

    Soft value-based decoding (2408.08252). The value of a child is the reward of its estimated picture. A
    child is chosen with the probability `softmax(value / alpha)`; with `alpha=0` the best one is. The first
    children are several starts. A step draws fresh noise as DDPM does, or the share `renoise` of that, in
    place of the step of the scheduler. Each child runs through the denoiser, so the cost is that of
    `children` pictures.

    A `budget` lowers `children` to what it pays for. With one child it is the plain pipeline.
    """

    name: ClassVar[str] = "svdd"
    grows: ClassVar[str] = "children"
    children: int = setting(4, "continuations", "at every step", bounds=(1, None))
    alpha: float = setting(0.0, "reward", "that makes a child e times as likely", bounds=(0, None))
    renoise: float = setting(1.0, "share", "of the noise of DDPM drawn afresh in each step", bounds=(0, 1))

    def search(self, search: Search) -> None:
        """Run all children in one call."""
        host = search.host
        steps, each = host.schedule()
        n = min(self.children, self.affordable(search, steps * each))
        watch = search.watched()
        dice = [host.dice(prompt, self.name) for prompt in range(len(host.prompts))]

        def choose(play: Play, step: int, latents: Tensor) -> Tensor | None:
            if n == 1 or step >= steps - 1:
                return None
            total, each = play.estimated(play.alive)
            sources = []
            for prompt, own in enumerate(dice):
                rows = play.rows(prompt)
                part = slice(rows[0], rows[-1] + 1)
                best = play.ordered(rows, total[part], {k: v[part] for k, v in each.items()})[0]
                chosen = best if self.alpha == 0 else rows[pick(total[part], self.alpha, own)]
                sources += [chosen] * n
                if step == 0:  # from here on all children of a prompt come from one start
                    for row in rows:
                        if row != chosen:
                            play.branch(row, chosen)
            shape = n, *latents.shape[1:]
            fresh = torch.cat([torch.randn(shape, generator=own) for own in dice]).to(latents.device)
            mixes = watch.mix, mix_at(host.pipe.scheduler, step + 1)
            play.mixed()
            made = ancestral(watch.clean(sources), watch.noise(sources), *mixes, fresh, self.renoise)
            return made.to(latents)

        search.play(self.starts(search, n), choose)


def pick(values: Tensor, alpha: float, dice: torch.Generator) -> int:
    """Draw one of the values `[n]` with the probability `softmax(value / alpha)`; NaN is never drawn."""
    fine = torch.where(torch.isfinite(values), values.double(), -torch.inf)
    return int(torch.multinomial(torch.softmax(fine / alpha, 0), 1, generator=dice))
