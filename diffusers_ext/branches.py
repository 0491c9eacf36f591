"""Which branch of classifier-free guidance (CFG) a denoiser call computes, and whose call it is."""

import sys
from collections.abc import Hashable
from typing import Any, Literal

from diffusers import DiffusionPipeline

from .errors import UnsupportedError
from .families.base import Family

Cfg = Literal["auto", "none", "batch", "two_calls"]
Pass = Literal["cond", "uncond", "both"]

# Pipelines that combine three predictions; their rows are not (unconditional, conditional).
THREE_BRANCHES = ("InstructPix2Pix", "LEdits")


class Branches:
    """Tells conditional from unconditional calls of one denoiser.

    `cfg="auto"` asks the pipeline. A name given by the host's `cache_context` wins; without one, calls at the
    same point of a trajectory alternate, conditional first, as in every known pipeline with two calls.
    """

    def __init__(self, cfg: Cfg, pipe: Any, family: Family) -> None:
        self.cfg = cfg
        self.pipe = pipe
        self.family = family
        self._point: Hashable = None
        self._calls = 0

    def moved(self, point: Hashable) -> bool:
        """Notes a call at a point of the trajectory; true where the point is a new one."""
        new = point != self._point
        self._point, self._calls = point, 1 if new else self._calls + 1
        return new

    def forget(self) -> None:
        """The next call starts a trajectory."""
        self._point, self._calls = None, 0

    def read(self, name: str | None) -> Pass:
        """The branch of the call just noted; `name` is that of the host's cache context."""
        if name in ("cond", "uncond"):
            return name
        mode = self.mode()
        if mode == "two_calls":
            return "uncond" if self._calls % 2 == 0 else "cond"
        return "both" if mode == "batch" else "cond"

    def mode(self) -> Cfg:
        """How the call at hand uses CFG."""
        if self.cfg != "auto":
            return self.cfg
        if self.pipe is None:
            return "none"
        if self.family.cfg == "two_calls":
            return "two_calls"
        return "batch" if getattr(self.pipe, "do_classifier_free_guidance", False) else "none"

    def check(self, method: str) -> None:
        """Raises `UnsupportedError` where guidance could not know its rows, before anything runs."""
        host = type(self.pipe).__name__
        if any(part in host for part in THREE_BRANCHES):
            raise UnsupportedError(
                f"{host} combines three predictions, {method} knows how to guide two; "
                "use a pipeline with an unconditional and a conditional branch."
            )
        silent = not hasattr(type(self.pipe), "do_classifier_free_guidance")
        if self.cfg == "auto" and self.pipe is not None and self.family.cfg == "batch" and silent:
            raise UnsupportedError(
                f"{host} does not tell whether it uses classifier-free guidance; say so in apply(): "
                "cfg='batch' (unconditional rows first), 'two_calls' or 'none'."
            )

    def check_caller(self) -> None:
        """Raises `UnsupportedError` where another pipeline runs the denoiser than the session is on."""
        caller = calling_pipeline()
        told = self.pipe is None and self.cfg != "auto"
        if caller is None or caller is self.pipe or told:
            return
        mine = "the bare denoiser" if self.pipe is None else type(self.pipe).__name__
        raise UnsupportedError(
            f"The session was applied to {mine}, but {type(caller).__name__} runs the denoiser, and the "
            "branches of its guidance are unknown here; apply to the pipeline that you call."
        )


def calling_pipeline() -> Any | None:
    """The innermost diffusers pipeline whose `__call__` is running in this thread."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline):
                return owner
        frame = frame.f_back
    return None
