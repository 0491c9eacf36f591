"""Look at the latents after each step of a pipeline call, and exchange them, beside the caller's callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import MethodError

OnStep = Callable[[int, Tensor], Tensor | None]  # index of the step and latents -> other latents, or None


def on_each_step(on_step: OnStep, steps: Callable[[], int], call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of `steps()` steps, `call`, that run `on_step` after each of them.

    The caller's own callback runs after it, and sees the latents that `on_step` returned. After the last step
    it runs first, since the pictures are scored there.
    """
    theirs = call.get("callback_on_step_end")

    def ours(pipe: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        changed = on_step(step, state["latents"])
        return state if changed is None else {**state, "latents": changed}

    def callers(pipe: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        made = theirs(pipe, step, timestep, dict(state))
        if not isinstance(made, Mapping):
            raise MethodError(
                "callback_on_step_end returns a dictionary of the tensors that it changed, got "
                f"{type(made).__name__}; end it with: return callback_kwargs."
            )
        return {**state, **made}  # what it left out stays, as in pipelines

    def callback(pipe: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        both, last = (ours,) if theirs is None else (ours, callers), step == steps() - 1
        for act in reversed(both) if last else both:
            state = act(pipe, step, timestep, state)
        if last and getattr(pipe, "_interrupt", False):
            pipe._interrupt = False  # no step was left out, so the picture is finished
        return state

    # A callback object of diffusers says itself which tensors it changes.
    asked = getattr(theirs, "tensor_inputs", None) or call.get("callback_on_step_end_tensor_inputs")
    names = {"latents", *(asked or ())}
    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": sorted(names)}
