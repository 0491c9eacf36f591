"""Give a session a scheduler of its own that remembers what it scaled and can step from other latents."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError

NOTES = "_diffusers_ext_notes"  # attribute of the scheduler of a session


class LatentNotes:
    """Notes of a scheduler: what it scaled for the coming call of the denoiser, and where to step from.

    `raw` are the latents as the pipeline gave them, all rows of both branches, and `scaled` what the denoiser
    gets. `moved [R, ...]` are the latents of R pictures that replace those of the next step.
    """

    def __init__(self) -> None:
        self.raw: Tensor | None = None
        self.scaled: Tensor | None = None
        self.moved: Tensor | None = None
        self.began: Tensor | None = None  # where the last step began
        self._scale: Callable[[Tensor], Tensor] | None = None

    def __deepcopy__(self, memo: Any) -> LatentNotes:
        return LatentNotes()  # those of a copy of the scheduler, which is at no step

    def record(self, raw: Tensor, scaled: Tensor, scale: Callable[[Tensor], Tensor]) -> None:
        """Note what the scheduler scaled; `scale` does the same to other latents."""
        self.raw, self.scaled, self._scale, self.moved = raw, scaled, scale, None

    def scale(self, latents: Tensor) -> Tensor:
        """Scale latents as those of this step were scaled."""
        return self._scale(latents)

    def taken(self, sample: Tensor) -> Tensor:
        """Return the latents to step from, and forget the step."""
        raw, moved = self.raw, self.moved
        self.raw = self.scaled = self.moved = self._scale = None
        self.began = sample
        if moved is None:
            return sample
        if sample.shape != moved.shape or not torch.equal(sample, raw[-len(sample) :]):
            raise UnsupportedError(
                "A method moved the latents of a step, but the pipeline changed them too before its "
                "scheduler saw them again; use a pipeline that gives the same latents to both."
            )
        self.began = moved
        return moved


def notes_of(scheduler: Any) -> LatentNotes | None:
    """Return the notes of a scheduler that `exchange` made, or of a copy of it."""
    return getattr(scheduler, NOTES, None)


def exchange(pipe: Any, method: str) -> Callable[[], str | None]:
    """Give a pipeline a copy of its scheduler with notes; return the undo, which puts the same object back.

    The undo returns a sentence if someone exchanged the scheduler meanwhile, which then stays. Raises
    `UnsupportedError` for a pipeline whose scheduler does not scale the latents.
    """
    old = getattr(pipe, "scheduler", None)
    if not hasattr(type(old), "scale_model_input"):
        raise UnsupportedError(
            f"{method} moves the latents between scheduler and denoiser, but the scheduler of "
            f"{type(pipe).__name__} ({type(old).__name__}) has no scale_model_input(); use a scheduler that "
            "has, such as DDIMScheduler."
        )
    own = copy.deepcopy(old)
    own.__class__ = _with_notes(type(old))
    setattr(own, NOTES, LatentNotes())
    # Not setattr: that of pipelines would write the exchange into their config.
    vars(pipe)["scheduler"] = own

    def undo() -> str | None:
        if vars(pipe).get("scheduler") is not own:
            return "the scheduler was exchanged while the session was open; it was left as it is"
        vars(pipe)["scheduler"] = old
        return None

    return undo


def _with_notes(kind: type) -> type:
    """Return a class of the same name whose schedulers keep notes."""

    @wraps(kind.scale_model_input)
    def scale_model_input(self: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def scale(latents: Tensor) -> Tensor:
            return kind.scale_model_input(self, latents, *args, **kwargs)

        scaled = scale(sample)
        if (notes := notes_of(self)) is not None:
            notes.record(sample, scaled, scale)
        return scaled

    @wraps(kind.step)
    def step(self: Any, model_output: Any, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        notes = notes_of(self)
        sample = sample if notes is None else notes.taken(sample)
        return kind.step(self, model_output, timestep, sample, *args, **kwargs)

    own = {"scale_model_input": scale_model_input, "step": step, "__module__": kind.__module__}
    made = type(kind.__name__, (kind,), own | {"__qualname__": kind.__qualname__, "__doc__": kind.__doc__})
    return made
