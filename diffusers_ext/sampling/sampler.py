"""The form that all samplers share: options, one call, one result."""

from __future__ import annotations

import inspect
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor

from ..core import check_settings
from ..errors import MethodError
from ..rewards.base import ensemble
from ..settings.fields import check_bounds, fit_fields, setting
from .budget import Bar, Budget, State, Stopped
from .host_call import HostCall, Starts
from .result import Result, joined
from .search import Search
from .search_arguments import OWN

OUTPUTS = ("pil", "np", "pt")


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Makes one picture for each prompt by trying starts and scoring what comes of them.

    `rewards` is a reward, any `function(images, prompts)`, or a list of them or of pairs with a weight.
    `noise` changes the noise before anything runs, such as an `NPNet`. `refine` is a second sampler that goes
    on from the noise of the winner. It has its own budget and what the first left of its own.

    Nothing of the caller's pipeline is changed, its scheduler included.
    """

    name: ClassVar[str]
    grows: ClassVar[str]  # the setting that a larger budget pays for
    needs_rewards: ClassVar[bool] = True
    rewards: Any = None
    noise: Any = None
    refine: Any = None
    micro_batch: int | None = setting(
        None, "candidates", "run at a time; all at once if left out", bounds=(1, None)
    )
    budget: int | None = setting(
        None, "evaluations", "of the denoiser for each prompt, at most", bounds=(1, None)
    )
    seconds: float | None = setting(None, "seconds", "after which the best picture so far is returned")
    keep_pictures: bool = setting(False, "", "keep the estimated pictures of every candidate by step")

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        try:
            inspect.signature(cls.__init__).bind_partial(None, *args)
        except TypeError:
            name = cls.__name__
            raise TypeError(
                f"{name} takes settings by name, got {args[0]!r}; a reward comes as {name}(rewards=...)."
            ) from None
        check_settings(cls, settings)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        fit_fields(self)
        check_bounds(self)
        if self.refine is not None and not isinstance(self.refine, Sampler):
            raise MethodError(f"refine takes a sampler, got {self.refine!r}; write dx.ReNO(iterations=10).")
        if self.noise is not None and not callable(self.noise):
            raise MethodError(
                f"noise takes a function of a call and noise, got {self.noise!r}; write "
                "dx.NPNet.from_pretrained(...)."
            )
        theirs = None if self.refine is None else self.refine.rewards
        if theirs is not None and theirs is not self.rewards:
            raise MethodError(
                f"refine goes on with the rewards of {self.name}, so that scores can be compared, got "
                f"others; give rewards to {self.name} alone."
            )

    @abstractmethod
    def search(self, search: Search) -> None:
        """Run the search; the best of each prompt is in `search.best` afterwards."""

    def sample(
        self,
        pipe: Any,
        prompt: str | Sequence[str],
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        progress: bool | Callable[[State], None] | None = None,
        stop: Callable[[], bool] | None = None,
        **call: Any,
    ) -> Result:
        """Return the best picture that was found for each prompt.

        `call` holds further arguments of `pipe(...)`. `latents [P, ...]` is the noise of the first candidate
        of each prompt, of unit variance. `progress` shows a bar (by default where the pipeline shows one), or
        is called with the `State` of the search. `stop` is asked at each step, and ends the search where it
        answers true.

        Raises `MethodError` for arguments that do not fit, and where a search ends before one picture is
        finished.
        """
        if output_type not in OUTPUTS:
            raise MethodError(
                f"samplers return pictures as {', '.join(OUTPUTS)}, got output_type={output_type!r}; "
                "result.noise holds the noise."
            )
        host = HostCall(pipe, prompt, generator, latents, **call)
        shown = not getattr(pipe, "_progress_bar_config", {}).get("disable", False)
        bar = Bar(self.name, shown if progress is None else progress is True)
        limit = None if self.budget is None else self.budget * len(host.prompts)
        budget = Budget(limit, self.seconds, stop, progress if callable(progress) else bar)
        search = self._begin(host, budget)
        stopped = None
        try:
            self.search(search)
        except Stopped as reason:
            stopped = reason.why
            if not all(search.best):
                raise MethodError(
                    f"{self.name} stopped before one picture of each prompt was finished, since "
                    f"{reason.why}; give it more."
                ) from reason
        finally:
            bar.close()
        result = _result(search, output_type, stopped)
        if self.refine is None:
            return result
        return self._refined(pipe, host, result, stop, call, output_type, progress)

    def starts(self, search: Search, n: int, first: int = 0) -> Starts:
        """Draw `n` candidates for each prompt, with the noise transform applied."""
        starts = search.host.draw(n, first)
        if self.noise is None:
            return starts
        made = self.noise(search.host, starts.noise)
        if (came := _no_noise(made, starts.noise)) is not None:
            raise MethodError(
                "noise takes a function that returns finite noise of the shape that it got, "
                f"{list(starts.noise.shape)}, and it returned {came}; return one noise for each."
            )
        return starts.with_noise(made.to(starts.noise))

    def affordable(self, search: Search, cost: float) -> int:
        """Return how many candidates a prompt's budget pays for, at `cost` evaluations each.

        Raises `MethodError` if it does not pay for one.
        """
        if self.budget is None:
            return sys.maxsize
        if cost > self.budget:
            raise MethodError(
                f"{self.name} needs {cost:g} evaluations for one candidate, got budget={self.budget}; give "
                "it more, or take fewer steps."
            )
        return int(self.budget / cost)

    def _begin(self, host: HostCall, budget: Budget) -> Search:
        return Search(host, ensemble(self.rewards), budget, self.micro_batch, self.keep_pictures)

    def _refined(
        self,
        pipe: Any,
        host: HostCall,
        found: Result,
        stop: Callable[[], bool] | None,
        call: dict[str, Any],
        output_type: str,
        progress: bool | Callable[[State], None] | None,
    ) -> Result:
        """Let the second sampler go on from the winners, and keep what is better for each prompt.

        The first result stays where someone asked to stop before the second is finished, and, with a
        warning, where the second cannot begin.
        """
        ended = replace(found, stopped=found.stopped or "someone asked to stop")
        if stop is not None and stop():
            return ended
        refine = self.refine
        if refine.rewards is None:
            refine = replace(refine, rewards=self.rewards)
        if self.budget is not None:  # what is left of ours goes to it
            left = self.budget - -(-found.cost // len(host.prompts))
            if (rest := max(left, 0) + (refine.budget or 0)) < 1:
                return replace(found, stopped=f"its budget of {self.budget} evaluations is spent")
            refine = replace(refine, budget=rest)
        call = {name: value for name, value in call.items() if name not in OWN}
        try:
            better = refine.sample(
                pipe,
                host.prompts,
                generator=list(found.states),
                latents=found.noise.to(host.family.noise_dtype(pipe)),
                output_type=output_type,
                progress=progress if callable(progress) else False,
                stop=stop,
                **call | host.call,
            )
        except MethodError as error:  # what was found is not lost
            if stop is not None and stop():
                return ended
            warnings.warn(f"diffusers_ext: refine made nothing better, since {error}", stacklevel=3)
            return replace(found, stopped=f"refine: {error}")
        return joined(found, better)


def _no_noise(made: Any, given: Tensor) -> str | None:
    """Say what a transform of noise has returned, or `None` if that may take the place of `given`."""
    if not isinstance(made, Tensor):
        return type(made).__name__
    if made.shape != given.shape:
        return str(list(made.shape))
    return None if torch.isfinite(made).all() else "NaN or infinity"


def _result(search: Search, output_type: str, stopped: str | None) -> Result:
    best, budget = search.best, search.budget
    return Result(
        images=as_output(torch.stack([b.image for b in best]), output_type),
        noise=torch.cat([b.start.noise for b in best]),
        states=tuple(b.start.states[0] for b in best),
        scores=torch.tensor([b.score for b in best]),
        each={name: torch.tensor([b.each[name] for b in best]) for name in best[0].each},
        seeds=tuple(b.candidate.seed for b in best),
        history=tuple(search.candidates),
        nfe=budget.evaluations,
        gradients=budget.gradients,
        scored=budget.scored,
        seconds=budget.seconds,
        stopped=stopped,
    )


def as_output(pictures: Tensor, output_type: str) -> Any:
    """Return pictures `[B, 3, H, W]` or videos `[B, T, 3, H, W]` from 0 to 1 in the form asked for."""
    if output_type == "pt":
        return pictures
    arrays = pictures.detach().float().movedim(-3, -1).cpu().numpy()
    if output_type == "np":
        return arrays
    if arrays.ndim == 5:
        return [[_pil(frame) for frame in clip] for clip in arrays]
    return [_pil(array) for array in arrays]


def _pil(array: Any) -> Image.Image:
    return Image.fromarray((array * 255).round().astype("uint8"))
