"""Check the arguments of a call that a search makes, before anything runs, and give each prompt its own."""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MethodError, UnsupportedError
from ..families import FAMILIES
from .call import check_scales

NEEDED = ("latents", "generator", "callback_on_step_end")  # what a pipeline must take
OWN = ("return_dict", "output_type", "num_images_per_prompt", "num_videos_per_prompt")  # given by us


def check(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise `UnsupportedError` for a pipeline that cannot be searched, `MethodError` for its arguments."""
    known = inspect.signature(type(pipe).__call__).parameters
    kind = type(pipe).__name__
    if absent := [name for name in NEEDED if name not in known]:
        raise UnsupportedError(
            f"samplers give a pipeline its noise and look at its steps, but {kind} takes no "
            f"{' and no '.join(absent)}; pipelines of {', '.join(FAMILIES)} in diffusers 0.42 do, such as "
            "StableDiffusionPipeline, StableDiffusion3Pipeline, FluxPipeline and WanPipeline."
        )
    if taken := [name for name in call if name in OWN[:1]]:
        raise MethodError(f"samplers return a result of their own, got {taken[0]}; leave it out.")
    if call.get("prompt_embeds") is not None:
        raise MethodError(
            "samplers take prompts as text, which rewards read, got prompt_embeds; give the text alone."
        )
    check_numbers(pipe, call)
    _check_start(pipe, call)
    if unknown := [name for name in call if name not in known]:
        raise MethodError(f"{kind} takes no {unknown[0]}; {instead(unknown[0], known)}.")


def check_numbers(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise `MethodError` for counts below 1 and for scales of guidance that are not finite.

    Pipelines of diffusers take them, and return noise or a picture without guidance.
    """
    _check_count("num_inference_steps", call, "15 to 50 is", most=1000)
    _check_count(copies_name(pipe), call, "1 is")
    try:
        check_scales(call)
    except ValueError as error:
        raise MethodError(f"{error}.") from error


def instead(name: str, known: Mapping[str, Any]) -> str:
    """Say what to write in place of an argument that a pipeline does not take."""
    if name in ("seed", "seeds"):
        return "seeds come as generator=torch.Generator().manual_seed(7)"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"nearest is {close[0]!r}" if close else "leave it out"


def copies_name(pipe: Any) -> str:
    """Return the name of the argument that says how many pictures a prompt has."""
    known = inspect.signature(type(pipe).__call__).parameters
    return next((name for name in OWN[2:] if name in known), OWN[2])


def repeated(
    prompt: str | Sequence[str], copies: int, call: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Return a list of prompts, each `copies` times, and the other texts of the call as lists as long."""
    some = isinstance(prompt, (list, tuple)) and prompt and all(isinstance(p, str) for p in prompt)
    if not (isinstance(prompt, str) or some):
        raise MethodError(
            f"samplers take a prompt or a list of prompts as text, got {prompt!r}; rewards read them."
        )
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    found = dict(call)
    for name, value in call.items():
        if "prompt" not in name or value is None or not isinstance(value, (str, list, tuple)):
            continue
        values = [value] * len(prompts) if isinstance(value, str) else list(value)
        if len(values) != len(prompts):
            raise MethodError(
                f"{name} takes one text for all prompts or one for each, got {len(values)} for "
                f"{len(prompts)} prompts; give as many."
            )
        found[name] = [v for v in values for _ in range(copies)]
    return [p for p in prompts for _ in range(copies)], found


def _check_start(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise `UnsupportedError` for a call that begins with a noisy picture.

    Such a pipeline takes `latents` as that picture, and would never look at the real one. At full strength
    inpainting begins with noise alone.
    """
    known = inspect.signature(type(pipe).__call__).parameters
    if "strength" not in known:
        return
    given = call.get("strength")
    strength = known["strength"].default if given is None else given
    flow = type(pipe.scheduler).__name__.startswith("FlowMatch")
    scaled = flow or "is_strength_max" in inspect.signature(pipe.prepare_latents).parameters
    full = scaled and "mask_image" in known
    if full and strength == 1:
        return
    step = "pass strength=1" if full else "use one that begins with noise, or apply methods without a sampler"
    raise UnsupportedError(
        f"samplers give a pipeline the noise that it begins with, but {type(pipe).__name__} begins with a "
        f"noisy picture at strength={strength!r}; {step}."
    )


def _check_count(name: str, call: Mapping[str, Any], usual: str, most: int | None = None) -> None:
    """Raise `MethodError` unless an argument is left out, or a whole number from 1 on, NumPy's included."""
    value = call.get(name)
    try:
        number = 1 if value is None else operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or not 1 <= number <= (most or number):
        bounds = f"from 1 to {most}" if most else "above 0"
        raise MethodError(f"{name} must be a whole number {bounds}, got {value!r}; {usual} usual.")
