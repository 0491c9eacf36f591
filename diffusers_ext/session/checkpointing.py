"""Let blocks that gradient checkpointing runs again see the call of the denoiser that they belonged to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from ..core import RunContext
from ..errors import UnsupportedError

FLAG, FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"  # of the modules of diffusers


class Replay:
    """Gives blocks that run again in a backward pass the `run` of their own call.

    What cores prepare for a call is that of the last one. So `why_not(number)` says why blocks of a call, by
    its number, cannot run again now, or returns `None`. `lock` is that of the calls: other threads wait.
    """

    def __init__(
        self, run: RunContext, lock: AbstractContextManager[Any], why_not: Callable[[int], str | None]
    ) -> None:
        self.run = run
        self.lock = lock
        self.why_not = why_not

    @contextmanager
    def around(self, module: nn.Module, number: int) -> Iterator[None]:
        """Hold the checkpoint functions of a model for the time of a call that has gradients."""
        if not (torch.is_grad_enabled() and getattr(module, "is_gradient_checkpointing", False)):
            yield
            return
        held = [(m, getattr(m, FUNCTION)) for m in module.modules() if getattr(m, FLAG, False)]
        try:
            for part, function in held:
                setattr(part, FUNCTION, self._replaying(function, number))
            yield
        finally:
            for part, function in held:
                setattr(part, FUNCTION, function)

    def _replaying(self, checkpoint: Callable[..., Any], number: int) -> Callable[..., Any]:
        """Return a checkpoint function whose blocks run in the state of `run` when they first ran."""

        def function(block: Callable[..., Any], *args: Any) -> Any:
            first, kept = True, _state(self.run)

            def again(*args: Any) -> Any:
                nonlocal first
                if first:
                    first = False
                    return block(*args)
                with self.lock:
                    return self._again(block, args, number, kept)

            return checkpoint(again, *args)

        return function

    def _again(self, block: Callable[..., Any], args: Any, number: int, kept: dict[str, Any]) -> Any:
        if (why := self.why_not(number)) is not None:
            raise UnsupportedError(
                f"Gradient checkpointing runs blocks again in the backward pass, but {why}; call backward() "
                "before that, or disable_gradient_checkpointing()."
            )
        now = _state(self.run)
        _set(self.run, kept)
        try:
            return block(*args)
        finally:
            _set(self.run, now)


def _state(run: RunContext) -> dict[str, Any]:
    return {name: getattr(run, name) for name in RunContext.__slots__}


def _set(run: RunContext, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(run, name, value)
