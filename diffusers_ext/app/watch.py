"""Follow a picture while it is made: cancel between two steps, count steps, and show what it will become."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from ..families import family_of
from ..families.denoisers import denoisers
from ..sampling.estimate import StepWatch
from ..sampling.progress import Progress
from .engine import Control

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..sampling.budget import State

PATIENCE = 0.25  # seconds that a preview may take; a slower one is the last


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a job is done: the share of the job from 0 to 1, words on it, and the picture to come."""

    share: float
    words: str
    preview: Image | None = None


class Watch(Progress):
    """Report the steps of `total` pictures to a job, and end them when its visitor cancels.

    A preview is the estimate of the finished picture, every `each` steps; `each=0` makes none. `before` says
    how many pictures of the job were finished in how many seconds, for a job that is watched in parts.
    """

    def __init__(
        self,
        control: Control,
        total: int,
        call: Mapping[str, Any],
        label: str = "",
        each: int = 0,
        before: tuple[int, float] = (0, 0.0),
    ) -> None:
        super().__init__(total, say=lambda text: None)
        self._control, self._call, self._label, self._each = control, call, label, each
        self.finished, seconds = before
        self._began, self._estimates = time.monotonic() - seconds, None

    def begin(self, size: int) -> None:
        """Announce a batch. Raises `Interrupted` if the visitor has cancelled."""
        self._control.check()
        super().begin(size)

    def trace(self, error: BaseException) -> None:
        """Show nothing: a visitor sees no frames."""

    def hooks(self, pipe: Any) -> dict[str, Any]:
        """Return the callback of a call; it also cancels, so it is not left out without a bar."""
        if "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters:
            return {}
        if self._each:
            try:
                self._estimates = StepWatch(pipe.scheduler)
            except UnsupportedError:  # of a schedule without estimates
                self._each = 0
        return {"callback_on_step_end": self._step}

    def searching(self, state: State) -> None:
        """Report on a search."""
        self._control.check()
        super().searching(state)

    def _step(self, pipe: Any, step: int, timestep: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
        self._control.check()
        steps = max(getattr(pipe, "num_timesteps", 0) or 0, step + 1)
        preview = self._preview(pipe) if self._each and (step + 1) % self._each == 0 else None
        self._report((step + 1) / steps, f"step {step + 1} of {steps}", preview)
        return state

    def _preview(self, pipe: Any) -> Image | None:
        """Return what the first picture of the batch will look like, by the estimate of this step."""
        import PIL.Image
        import torch

        from ..sampling.clip import Clip
        from ..sampling.generate import to_image
        from ..sampling.items import Item

        began = time.monotonic()
        family = family_of(next(iter(denoisers(pipe).values())))
        with torch.no_grad():
            pictures = family.decode(pipe, self._estimates.clean(slice(0, 1)), self._call)
        array = pictures[0].movedim(-3, -1).float().cpu().numpy()
        if time.monotonic() - began > PATIENCE:
            self._each = 0
        try:
            made = to_image(array, Item("", 0))
        except ValueError:  # NaN or black; the finished picture is checked anyway
            return None
        return PIL.Image.fromarray(made.frames[0]) if isinstance(made, Clip) else made

    def _move(self, share: float, step: str) -> None:
        self._report(share, step.removeprefix(", "))

    def _report(self, share: float, words: str, preview: Image | None = None) -> None:
        done = (self.finished + len(self.failures) + share * max(self._size, 1)) / max(self.total, 1)
        spent = time.monotonic() - self._began
        left = f"about {spent / done * (1 - done):.0f} s left" if done > 0.02 else ""
        where = ": ".join(filter(None, (self._label, words)))
        self._control.show(Step(min(done, 1.0), ", ".join(filter(None, (where, left))), preview))
