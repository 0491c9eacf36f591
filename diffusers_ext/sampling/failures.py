"""Explain in one sentence why a picture failed, with a next step that fits the model and its dtype."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Mapping
from typing import Any

from ..errors import MethodError
from .call import CallError

# Besides torch.OutOfMemoryError: the allocators of CPU, MPS and the CUDA libraries raise RuntimeErrors.
_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "STATUS_ALLOC_FAILED", "Unable to allocate")
_CHECKS = "check_inputs"  # the method in which pipelines refuse arguments, before anything is made


class BrokenImageError(ValueError):
    """The pipeline returned NaN, infinity or nothing but black."""


class BadWeightsError(BrokenImageError):
    """The weights of the pipeline hold NaN or infinity, so every picture is broken."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on any device."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MEMORY)


def hits_all(error: BaseException) -> bool:
    """Return whether every other picture would fail in the same way, so that going on is useless.

    This is true for methods that do not fit, for weights with NaN, and for arguments that the pipeline
    refuses. It is also true for a lost device: after an illegal access every later call on it fails.
    """
    import torch

    if isinstance(error, (MethodError, BadWeightsError, CallError)):
        return True
    lost = isinstance(error, torch.AcceleratorError) or "CUDA error:" in str(error)
    if lost and not out_of_memory(error):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    # A TypeError from the call itself, not from inside the pipeline, names an unknown argument.
    unknown = isinstance(error, TypeError) and len(frames) <= 4
    return unknown or any(frame.name == _CHECKS for frame in frames)


def free_memory() -> None:
    """Free the memory of a failed call. Call it when the exception is gone."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reason_of(error: BaseException, pipe: Any, call: Mapping[str, Any], about: str) -> str:
    """Describe an error of a call in one sentence with the next step. `about` names the picture."""
    if out_of_memory(error):
        return f"out of memory for one {_thing(call)} in {_dtype(pipe)} ({about}); {_smaller(pipe, call)}"
    first = next(iter(str(error).strip().splitlines()), "")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"the pipeline failed with {what.rstrip('.')} ({about}); --debug before the command shows where"


def broken(what: str, about: str, pipe: Any, call: Mapping[str, Any]) -> BrokenImageError:
    """Build the error for NaN and all-black pictures, with the next step. This reads all weights."""
    if (bad := bad_weight(pipe)) is not None:
        return BadWeightsError(
            f"the pipeline returned {what} ({about}), since its weights hold NaN or infinity, first in "
            f"{bad}; fetch or convert them again"
        )
    return BrokenImageError(f"the pipeline returned {what} ({about}); {_milder(pipe, call)}")


def _milder(pipe: Any, call: Mapping[str, Any]) -> str:
    dtype = _dtype(pipe)
    if dtype == "float16":
        return "try --dtype bfloat16 or float32, which hold larger numbers"
    if dtype == "bfloat16":
        return "try --dtype float32"
    scales = ["--guidance-scale"] * ((call.get("guidance_scale") or 0) > 1)
    scales += ["scale of the method"] * guided(pipe)
    return f"try a smaller {' or '.join(scales)}, or another seed" if scales else "try another seed"


def bad_weight(pipe: Any) -> str | None:
    """Return the name of the first parameter of a pipeline that is not finite, or `None`."""
    import torch

    for part, model in getattr(pipe, "components", {}).items():
        if isinstance(model, torch.nn.Module):
            for name, value in model.named_parameters():
                if value.is_floating_point() and not value.is_meta and not torch.isfinite(value).all():
                    return f"{part}.{name}"
    return None


def guided(pipe: Any) -> bool:
    """Return whether a method with an extra pass, and so with a scale, is applied."""
    from ..session.registration import NAME

    registries = [getattr(m, "_diffusers_hook", None) for m in getattr(pipe, "components", {}).values()]
    hooks = [r.get_hook(NAME) for r in registries if r is not None]
    return any(hook is not None and hook.guidance is not None for hook in hooks)


def extra_evaluations(pipe: Any) -> int:
    """Return what methods of a session spend on a conditional row in each step, beside the plain call."""
    from ..session.registration import NAME

    registries = [getattr(m, "_diffusers_hook", None) for m in getattr(pipe, "components", {}).values()]
    hooks = [hook for r in registries if r is not None and (hook := r.get_hook(NAME)) is not None]
    again = [h.preparing.extra_evaluations if h.preparing is not None else 0 for h in hooks]
    return guided(pipe) + max(again, default=0)


def _dtype(pipe: Any) -> str:
    return str(getattr(pipe, "dtype", "float32")).removeprefix("torch.")


def _thing(call: Mapping[str, Any]) -> str:
    kind = "clip" if call.get("num_frames") else "image"
    size = f" of {call['height']} x {call['width']} px" if call.get("height") and call.get("width") else ""
    return kind + size + (f" and {call['num_frames']} frames" if call.get("num_frames") else "")


def _smaller(pipe: Any, call: Mapping[str, Any]) -> str:
    steps = ["ask for a smaller size", *["for fewer frames"] * bool(call.get("num_frames"))]
    steps += ["for --dtype bfloat16, which takes half the memory"] * (_dtype(pipe) == "float32")
    return " or ".join(steps)
