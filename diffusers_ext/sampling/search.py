"""Run candidates of a search through calls of a pipeline: score, drop, replace, and keep the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MethodError
from ..rewards.base import Ensemble
from .budget import Budget
from .estimate import StepWatch
from .gate import Gate
from .host_call import HostCall, Starts
from .result import Candidate, Iterate

Handler = Callable[["Play", int, Tensor], Tensor | None]


@dataclass(frozen=True, slots=True)
class Best:
    """The best finished picture of a prompt until now."""

    score: float
    each: dict[str, float]
    image: Tensor
    start: Starts
    candidate: Candidate


class Search:
    """The state that all calls of a search share: candidates, the budget, and the best of each prompt."""

    def __init__(
        self,
        host: HostCall,
        rewards: Ensemble,
        budget: Budget,
        micro_batch: int | None = None,
        keep_pictures: bool = False,
        ranked: bool = False,
    ) -> None:
        self.host, self.rewards, self.budget = host, rewards, budget
        self.micro_batch, self.keep_pictures, self.ranked = micro_batch, keep_pictures, ranked
        self.candidates: list[Candidate | Iterate] = []
        budget.tried = self.candidates
        self.best: list[Best | None] = [None] * len(host.prompts)
        self.watch: StepWatch | None = None

    def watched(self) -> StepWatch:
        """Return the watch on the scheduler; raises `UnsupportedError` where pictures cannot be estimated."""
        if self.watch is None:
            self.watch = StepWatch(self.host.pipe.scheduler)
        return self.watch

    def play(
        self,
        starts: Starts,
        handler: Handler | None = None,
        origins: Sequence[int | None] | None = None,
        *,
        lines: Starts | None = None,
        at: int = 0,
        **more: Any,
    ) -> Play:
        """Run one call with these starts, as many for each prompt, and score what is alive at its end.

        `handler(play, step, latents)` is called after each step, may drop candidates, and may return other
        latents. A call that begins in the middle of a schedule says at which step, `at`, and from which
        starts its rows come, `lines`. `more` are arguments of the call.
        """
        play = Play(self, starts, handler, origins, lines, at)
        play.run(**more)
        return play

    def places(self, prompt: int) -> int:
        """Return how many candidates of a prompt there are."""
        return sum(c.prompt == prompt for c in self.candidates)

    def keep(self, prompt: int, best: Best) -> None:
        """Keep a finished picture if it is the best of its prompt."""
        held = self.best[prompt]
        if held is None or best.score > held.score:
            self.best[prompt] = best
            self.budget.best = tuple(b.score if b else None for b in self.best)
            self.budget.pictures = tuple(b.image if b else None for b in self.best)
            self.budget.show()

    def scores_of(
        self, pictures: Tensor, prompts: Sequence[int], level: float, rewards: Ensemble | None = None
    ) -> dict[str, Tensor]:
        """Return the rewards `[B]` of pictures by name, without gradients, on the CPU."""
        with torch.no_grad():
            texts = [self.host.prompts[p] for p in prompts]
            found = (rewards or self.rewards).each(pictures.float(), texts, level)
        self.budget.scored += len(texts)
        return {name: scores.detach().float().cpu() for name, scores in found.items()}


class Play:
    """One call of the pipeline with several candidates for each prompt."""

    def __init__(
        self,
        search: Search,
        starts: Starts,
        handler: Handler | None = None,
        origins: Sequence[int | None] | None = None,
        lines: Starts | None = None,
        at: int = 0,
    ) -> None:
        self.search, self.starts, self.handler = search, starts, handler
        self.lines, self.at = lines or starts, at
        self.per_prompt = len(starts.noise) // len(search.host.prompts)
        places = [search.places(p) for p in range(len(search.host.prompts))]
        self.candidates = [
            Candidate(
                prompt=i // self.per_prompt,
                place=places[i // self.per_prompt] + i % self.per_prompt,
                seed=starts.seeds[i] if origins is None or origins[i] is None else None,
                origin=None if origins is None else origins[i],
            )
            for i in range(len(starts.noise))
        ]
        search.candidates += self.candidates
        self.roots = list(range(len(self.candidates)))  # where in `lines` each row began
        self.gate = Gate(len(self.candidates), search.micro_batch, search.budget.check)
        self.step = at - 1  # counted from the start of the schedule

    @property
    def alive(self) -> list[int]:
        """The rows that run."""
        return self.gate.alive

    def prompt(self, row: int) -> int:
        """Return the number of the prompt of a row."""
        return row // self.per_prompt

    def rows(self, prompt: int) -> list[int]:
        """Return the rows of a prompt that are alive."""
        return [i for i in self.alive if self.prompt(i) == prompt]

    def run(self, **more: Any) -> None:
        """Make the call."""
        host, before = self.search.host, self.gate.spend
        self._cost_before = self.search.budget.cost

        def spend(part: Sequence[int], each: int) -> None:
            before(part, each)
            for i in part:
                self.candidates[i].evaluations += each
            self.search.budget.spend(each * len(part))

        self.gate.spend = spend
        with torch.no_grad(), self.gate.on(host.pipe):
            images = host.run(self.starts, self._on_step, output_type="pt", **more)
        for prompt, (row, score, each) in enumerate(self._winners):
            start = self.lines.take([self.roots[row]])
            self.search.keep(prompt, Best(score, each, images[prompt], start, self.candidates[row]))

    def mixed(self) -> None:
        """Note that the steps of all candidates had noise of the search, so that no seed makes them."""
        for candidate in self.candidates:
            candidate.seed = None

    def drop(self, keep: Sequence[int]) -> None:
        """Go on with the rows in `keep` alone."""
        keep = set(keep)
        for i in self.alive:
            if i not in keep:
                self.candidates[i].dropped = self.step
        self.gate.alive = sorted(keep)

    def branch(self, row: int, source: int) -> None:
        """Record that a row goes on as a copy of another: its candidate ends here and a new one begins."""
        parent = self.candidates[source]
        self.candidates[row].dropped = self.step
        place = self.search.places(parent.prompt)
        self.candidates[row] = Candidate(parent.prompt, place, seed=None, origin=parent.place)
        self.search.candidates.append(self.candidates[row])
        self.roots[row] = self.roots[source]

    def estimated(
        self, rows: Sequence[int], rewards: Ensemble | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scores `[R]` of the estimated pictures of some rows at this step, and each reward.

        They are those of `rewards`, or of the search.
        """
        watch = self.search.watched()
        total, each = self._scored(watch.clean, rows, watch.mix.level, rewards)
        for i, score in zip(rows, total.tolist(), strict=True):
            self.candidates[i].estimates[self.step] = score
        return total, each

    def _scored(
        self,
        latents: Callable[[Sequence[int]], Tensor],
        rows: Sequence[int],
        level: float,
        rewards: Ensemble | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode, score and record, a group of candidates at a time."""
        size = self.search.micro_batch or len(rows)
        found: dict[str, list[Tensor]] = {}
        for first in range(0, len(rows), size):
            part = list(rows[first : first + size])
            self.search.budget.check()
            with torch.no_grad():
                pictures = self.search.host.decode(latents(part))
            self.search.budget.decoded += len(part)
            if self.search.keep_pictures:
                for i, picture in zip(part, pictures, strict=True):
                    self.candidates[i].pictures[self.step] = as_pixels(picture)
            each = self.search.scores_of(pictures, [self.prompt(i) for i in part], level, rewards)
            for name, scores in each.items():
                found.setdefault(name, []).append(scores)
        each = {name: torch.cat(parts) for name, parts in found.items()}
        return (rewards or self.search.rewards).total(each), each

    def ordered(
        self,
        rows: Sequence[int],
        total: Tensor,
        each: dict[str, Tensor],
        rewards: Ensemble | None = None,
    ) -> list[int]:
        """Return rows of one pool, best first, without those whose score is NaN; ties keep their order.

        `rewards` are those that gave the scores, by default those of the search.
        """
        fine = [k for k in range(len(rows)) if torch.isfinite(total[k])]
        if not fine:
            prompt = self.search.host.prompts[self.prompt(rows[0])]
            names = [name for name, scores in each.items() if not torch.isfinite(scores).any()]
            raise MethodError(
                f"{' and '.join(names) or 'the sum of the rewards'} gave no finite number for each of "
                f"{len(rows)} candidates of {prompt[:60]!r}; check the reward, or the pictures in float32."
            )
        order = (
            (rewards or self.search.rewards).ranks({n: s[fine] for n, s in each.items()})
            if self.search.ranked
            else total[fine]
        )
        return [rows[fine[k]] for k in torch.argsort(order, descending=True, stable=True).tolist()]

    def _on_step(self, step: int, latents: Tensor) -> Tensor | None:
        self.step = self.at + step
        budget, steps = self.search.budget, self.search.host.steps()
        budget.step, budget.steps = step + 1, steps
        if step == 0:  # all candidates ran, so this is what the call costs if none is dropped
            budget.expect((budget.cost - self._cost_before) * (steps - 1))
        budget.check()
        changed = self.handler(self, step, latents) if self.handler is not None else None
        if step < steps - 1:
            return changed
        return self._finish(latents if changed is None else changed)

    def _finish(self, latents: Tensor) -> Tensor:
        """Score what is alive; return the latents of the best of each prompt, which the pipeline decodes."""
        rows = self.alive
        total, each = self._scored(lambda part: latents[part], rows, 0.0)
        for k, i in enumerate(rows):
            self.candidates[i].score = float(total[k])
            self.candidates[i].each = {name: float(scores[k]) for name, scores in each.items()}
        self._winners: list[tuple[int, float, dict[str, float]]] = []
        for prompt in range(len(self.search.host.prompts)):
            own = [k for k, i in enumerate(rows) if self.prompt(i) == prompt]
            pool = [rows[k] for k in own]
            first = self.ordered(pool, total[own], {n: s[own] for n, s in each.items()})[0]
            self._winners.append((first, self.candidates[first].score, self.candidates[first].each))
        return latents[[row for row, _, _ in self._winners]]


def as_pixels(picture: Tensor) -> Any:
    """Return a picture `[3, H, W]` from 0 to 1, or the middle frame of a video, as bytes `[H, W, 3]`."""
    if picture.ndim == 4:
        picture = picture[len(picture) // 2]
    return (picture.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
