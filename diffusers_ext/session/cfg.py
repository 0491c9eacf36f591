"""Find which branch of classifier-free guidance (CFG) a denoiser call computes, and which pipeline calls."""

import sys
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diffusers import DiffusionPipeline, ModularPipeline
from diffusers.hooks.hooks import BaseState, StateManager
from torch import Tensor

from ..errors import MethodError, UnsupportedError
from ..families.base import Family

Cfg = Literal["auto", "none", "batch", "two_calls"]
Pass = Literal["cond", "uncond", "both"]

# Parts of the names of pipelines whose calls are not one conditional and one unconditional branch; reasons.
UNREADABLE = {
    "InstructPix2Pix": "combines three predictions",
    "LEdits": "combines three predictions",
    "SemanticStableDiffusion": "combines a prediction for each editing prompt",
    "DiffEdit": "combines four predictions",
    "CycleDiffusion": "combines four predictions",
    "Panorama": "puts the branches of overlapping views between each other",
    "Paradigms": "computes several steps in one call",
    "SAGPipeline": "asks the denoiser again about a blurred picture",
    "AttendAndExcite": "asks the denoiser again for gradients",
    "Pix2PixZero": "asks the denoiser again for gradients",
    "TextToVideoZero": "moves single frames between its calls",
}
# Guiders of modular pipelines that weight their branches by numbers whose sum is one.
LINEAR_GUIDERS = ("ClassifierFreeGuidance", "AdaptiveProjectedGuidance")
NAMES: dict[str, Pass] = {"cond": "cond", "uncond": "uncond", "pred_cond": "cond", "pred_uncond": "uncond"}


@dataclass
class Calls:
    """The calls of one denoiser by one pipeline, at one point of a trajectory."""

    point: Hashable = None
    run: Hashable = None
    count: int = 0
    delta: Tensor | None = None  # what a guidance method added to the conditional one

    def note(self, run: Hashable, point: Hashable) -> bool:
        """Count a call; return whether it is the first of a run."""
        if (run, point) == (self.run, self.point):
            self.count += 1
            return False
        new = self.count == 0 or run != self.run
        self.run, self.point, self.count, self.delta = run, point, 1, None
        return new


class _NoState(BaseState):
    """Placeholder state: only the context name of the manager is read."""

    def reset(self) -> None:
        pass


class BranchName(StateManager):
    """The cache context that the pipeline set in this thread; its name is that of a branch."""

    def __init__(self) -> None:
        self._thread = threading.local()
        super().__init__(_NoState)

    @property
    def _context(self) -> Any:
        return getattr(self._thread, "context", None)

    @_context.setter
    def _context(self, context: Any) -> None:
        self._thread.context = context

    @property
    def name(self) -> str | None:
        """The name of the branch, or `None` if the pipeline gave none."""
        return None if self._context is None else self._context.name


class CFGBranches:
    """Finds which calls of one denoiser are conditional and which are not.

    `cfg="auto"` asks the pipeline that calls. A name given by its `cache_context` wins. Without one, calls at
    the same point of a trajectory alternate, conditional first, as in every known pipeline with two calls.
    `home` is the pipeline that the session was applied to, `None` for a bare denoiser.
    """

    def __init__(self, cfg: Cfg, home: Any, family: Family) -> None:
        if cfg not in get_args(Cfg):
            raise MethodError(
                f"cfg says how guidance reaches the denoiser ({', '.join(get_args(Cfg))}), got {cfg!r}; "
                "leave it out to ask the pipeline."
            )
        self.cfg = cfg
        self.home = home
        self.family = family

    def read(self, pipe: Any, name: str | None, calls: int) -> Pass:
        """Return the branch of call number `calls` at a point; `name` is from the cache context."""
        if name in NAMES:
            return NAMES[name]
        mode = self.mode(pipe)
        if mode == "two_calls":
            return "uncond" if calls % 2 == 0 else "cond"
        return "both" if mode == "batch" else "cond"

    def mode(self, pipe: Any) -> Cfg:
        """Return how the pipeline that calls uses CFG."""
        if self.cfg != "auto":
            return self.cfg
        if pipe is None:
            return "none"
        if self.family.cfg == "two_calls" or isinstance(pipe, ModularPipeline):
            return "two_calls"
        return "batch" if getattr(pipe, "do_classifier_free_guidance", False) else "none"

    def check(self, pipe: Any, method: str, linear: bool = True) -> None:
        """Raise `UnsupportedError` if a method cannot know its rows.

        With `linear`, it also raises where guidance would not be added exactly once. It is called before
        anything runs, and again in every run.
        """
        kind = type(pipe).__name__
        for part, what in UNREADABLE.items():
            if part in kind:
                raise UnsupportedError(
                    f"{kind} {what}, {method} knows how to guide one conditional and one unconditional "
                    "branch; use a pipeline with these two."
                )
        for guider in (getattr(pipe, "guider", None), getattr(pipe, "guider_2", None)):
            if linear and guider is not None and (why := _nonlinear(guider)) is not None:
                raise UnsupportedError(
                    f"{method} needs branches that are combined linearly, but the guider of {kind} {why}; "
                    "use ClassifierFreeGuidance with guidance_rescale=0."
                )
        silent = not hasattr(type(pipe), "do_classifier_free_guidance")
        modular = isinstance(pipe, ModularPipeline)
        if self.cfg == "auto" and pipe is not None and self.family.cfg == "batch" and silent and not modular:
            raise UnsupportedError(
                f"{kind} does not tell whether it uses classifier-free guidance; say so in apply(): "
                "cfg='batch' (unconditional rows first), 'two_calls' or 'none'."
            )

    def check_caller(self, caller: Any) -> None:
        """Raise `UnsupportedError` if a pipeline of another class than the session's runs the denoiser.

        A copy of the session's pipeline passes.
        """
        stated = self.home is None and self.cfg != "auto"
        if caller is None or type(caller) is type(self.home) or stated:
            return
        mine = "the bare denoiser" if self.home is None else type(self.home).__name__
        raise UnsupportedError(
            f"The session was applied to {mine}, but {type(caller).__name__} runs the denoiser, and the "
            "branches of its guidance are unknown here; apply to the pipeline that you call."
        )

    def check_run(self, pipe: Any, method: str, branch: Pass, latents: Tensor, linear: bool = True) -> None:
        """Raise `UnsupportedError` if the first call of a run has other branches than a method knows.

        It finds rows in another order, branches that are rescaled if they must be `linear`, and what `check`
        finds.
        """
        self.check(pipe, method, linear)
        kind = type(pipe).__name__
        if linear and self.mode(pipe) != "none" and getattr(pipe, "guidance_rescale", None):
            raise UnsupportedError(
                f"{method} needs branches that are combined linearly, but {kind} rescales them "
                f"(guidance_rescale={pipe.guidance_rescale}); set guidance_rescale=0."
            )
        if branch != "both" or pipe is None or len(latents) % 2:
            return
        uncond, cond = latents.chunk(2)
        if bool(((uncond != cond) & ~uncond.isnan()).any()):
            raise UnsupportedError(
                f"{method} expects a batch of the same latents twice, unconditional rows first, but the "
                f"halves of the batch from {kind} differ, so its rows are not known; use a pipeline that "
                "puts them in this order."
            )

    def check_count(self, pipe: Any, method: str, calls: int) -> None:
        """Raise `UnsupportedError` for a third call at a step of a pipeline with two calls."""
        if self.mode(pipe) == "two_calls" and calls > 2:
            raise UnsupportedError(
                f"{method} knows how to guide two calls at a step, conditional and unconditional, but "
                f"{'the caller' if pipe is None else type(pipe).__name__} called the denoiser a third time; "
                "switch off what else asks for predictions."
            )


def _nonlinear(guider: Any) -> str | None:
    """Return why the result of a guider is not a sum of branches whose weights sum to one, or `None`."""
    name = type(guider).__name__
    if name not in LINEAR_GUIDERS:
        return f"is a {name}"
    if getattr(guider, "guidance_rescale", 0.0):
        return f"rescales them (guidance_rescale={guider.guidance_rescale})"
    if getattr(guider, "eta", 1.0) != 1.0:
        return f"projects them (eta={guider.eta})"
    return None


def calling_pipeline() -> Any | None:
    """Return the innermost diffusers pipeline whose `__call__` is running in this thread."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self")
            if isinstance(owner, (DiffusionPipeline, ModularPipeline)):
                return owner
        frame = frame.f_back
    return None
