"""Check the arguments of a call before the first step: sizes, steps, seeds, prompt length."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MethodError
from ..models import memory
from ..models.sizes import check_size, cut_of
from . import guidance_arguments, required_inputs

SEED_LIMIT = 2**63
SINGLE = ("prompt", "generator", "latents", "return_dict", "output_type")  # of one call, never a setting


class CallError(ValueError):
    """A pipeline cannot make what a call asks for, whatever the seed."""


def seed_of(text: str | int) -> int:
    """Read a seed from user input; raises `ValueError` unless it is an integer in [0, 2**63)."""
    try:
        seed = int(str(text).strip())
    except ValueError:
        seed = -1
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"a seed must be a whole number from 0 to 2**63 - 1, got {text!r}; try 0")
    return seed


def arguments(
    pipe: Any,
    defaults: Mapping[str, Any],
    *,
    given: Sequence[str] = (),
    unread: bool = False,
    **asked: Any,
) -> dict[str, Any]:
    """Return the arguments for `pipe(...)`: `defaults` of the model, then what was `asked`.

    `None` means not asked. Arguments named in `given` are added later by the caller. Defaults that have no
    effect on this call are left out. Raises `ValueError` for an asked argument without effect, unless
    `unread` allows it. Raises it too for an argument that the pipeline does not take, for sizes it cannot
    make, and for a pipeline that needs more than a prompt.
    """
    required_inputs.check(pipe, given)
    known = inspect.signature(type(pipe).__call__).parameters
    asked = {k: v for k, v in asked.items() if v is not None}
    for name in asked:
        if name not in known:
            raise ValueError(f"{type(pipe).__name__} takes no {name}; leave it out")
    own = {k: v for k, v in defaults.items() if k in known}
    steps = (own | asked).get("num_inference_steps", 1)
    if not 1 <= steps <= 1000:
        raise ValueError(f"the number of steps must lie between 1 and 1000, got {steps}; 15 to 50 is usual")
    check_scales(own | asked)
    call = own | asked if unread else guidance_arguments.read(pipe, own, asked)
    check_size(pipe, call)
    memory.check(pipe, call)
    return exact(pipe, call)


def check_scales(call: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a scale of guidance that is no finite number."""
    for name in guidance_arguments.SCALES:
        scale = call.get(name)
        if isinstance(scale, float) and not math.isfinite(scale):
            raise ValueError(
                f"the {name.replace('_', ' ')} must be a finite number, got {scale}; 1 switches it off"
            )


def exact(pipe: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Add the area of the picture to `call` for pipelines that would scale every size to their own."""
    if "max_area" not in inspect.signature(type(pipe).__call__).parameters or "max_area" in call:
        return call
    usual = cut_of(pipe)
    area = (call.get("height") or usual.height) * (call.get("width") or usual.width)
    return call | {"max_area": area}


def run(pipe: Any, prompts: Sequence[str], call: Mapping[str, Any], **more: Any) -> Any:
    """Call `pipe` with `prompts`, and a negative prompt for each of them.

    Raises `ValueError` if the pipeline lacks a picture or video that was not given, and if it made another
    size than was asked.
    """
    if (negative := call.get("negative_prompt")) is not None:
        call = {**call, "negative_prompt": [negative] * len(prompts)}
    try:
        made = pipe(prompt=list(prompts), **call, **more)
    except (AttributeError, TypeError, ValueError) as error:
        # Our own error already says what is wrong.
        if isinstance(error, MethodError) or (known := required_inputs.blame(pipe, call, error)) is None:
            raise
        raise CallError(str(known)) from error
    except ZeroDivisionError as error:
        raise CallError(
            f"{type(pipe).__name__} cannot divide its schedule into {call.get('num_inference_steps')} "
            "steps; ask for more"
        ) from error
    _check_made(pipe, call, made)
    return made


def _check_made(pipe: Any, call: Mapping[str, Any], made: Any) -> None:
    pictures = getattr(made, "frames", getattr(made, "images", None))
    if pictures is None and not isinstance(made, tuple):
        raise CallError(
            f"{type(pipe).__name__} makes neither images nor videos, which is all that is kept here"
        )
    if not hasattr(pictures, "shape") or call.get("output_type") == "latent":
        return
    names = ("num_frames", "height", "width")[5 - pictures.ndim :] if pictures.ndim in (4, 5) else ()
    found = dict(zip(names, pictures.shape[1:-1], strict=True))
    other = {name: call[name] for name in found if call.get(name) not in (None, found[name])}
    if other:
        raise CallError(
            f"{type(pipe).__name__} made {' and '.join(f'{name} {found[name]}' for name in other)} where "
            f"{' and '.join(f'{name} {value}' for name, value in other.items())} was asked; ask for what "
            "it makes, or leave it out"
        )


def makes_videos(pipe: Any) -> bool:
    """Return whether a pipeline makes frames instead of one image."""
    return "num_frames" in inspect.signature(type(pipe).__call__).parameters
