"""Encode a text as a pipeline encodes its prompts, and put it beside theirs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from . import latents

KEPT = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")  # the scale of LoRA is in one


@dataclass(frozen=True)
class TextPart:
    """Tokens of a prompt among the text keys: those of one text encoder, or of several side by side.

    The tokenizers get `before + prompt + after`, and the first `cropped` tokens are left out. The others are
    at the text keys from `start` on. The encoder sees `limit` tokens, special ones included; `None` is the
    number that the tokenizers take.
    """

    tokenizers: tuple[Any, ...]
    prompt: str
    start: int = 0
    limit: int | None = None
    before: str = ""
    after: str = ""
    cropped: int = 0


def part(pipe: Any, prompt: str, *names: str, start: int = 0, limit: int | None = None) -> TextPart | None:
    """Return the part of the tokenizers with these names, those that the pipeline has; `None` without any."""
    found = tuple(t for name in names if (t := getattr(pipe, name, None)) is not None)
    if not found:
        return None
    if hasattr(pipe, "maybe_convert_prompt"):  # words of textual inversion that stand for several tokens
        prompt = pipe.maybe_convert_prompt(prompt, found[0])
    return TextPart(found, prompt, start, limit)


def limit(pipe: Any, call: Mapping[str, Any]) -> int | None:
    """Return the `max_sequence_length` of `pipe(**call)`."""
    return call.get("max_sequence_length") or latents.defaults(pipe).get("max_sequence_length")


def encoded(pipe: Any, text: str | list[str], tokens: int) -> Tensor:
    """Return the embedding `[1, L, C]` of a text, made by the pipeline's own `encode_prompt`.

    A list of T texts gives `[T, L, C]`. `tokens` is what a pipeline is asked for that takes
    `max_sequence_length`. Raises `UnsupportedError` if it has no `encode_prompt` or no text encoder.
    """
    kind = type(pipe)
    if not hasattr(kind, "encode_prompt"):
        raise UnsupportedError(
            f"Another text is encoded by encode_prompt() of a pipeline, which {kind.__name__} does not "
            "have; use a pipeline that has it, such as StableDiffusionPipeline or WanPipeline."
        )
    encoders = [name for name in pipe.components if name.startswith("text_encoder")]
    if all(getattr(pipe, name) is None for name in encoders):
        raise UnsupportedError(
            f"Another text is encoded by the text encoder of a pipeline, and this {kind.__name__} was "
            "loaded without one; load it with its text encoders."
        )
    clip_skip, lora_scale = settings(pipe)
    given = {
        "prompt": text,
        "prompt_2": None,
        "prompt_3": None,
        "device": pipe._execution_device,
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
        "do_classifier_free_guidance": False,
        "max_sequence_length": tokens,
        "clip_skip": clip_skip,
        "lora_scale": lora_scale,
    }
    known = inspect.signature(kind.encode_prompt).parameters
    with torch.no_grad():
        return pipe.encode_prompt(**{name: value for name, value in given.items() if name in known})[0]


def settings(pipe: Any) -> tuple[int | None, float | None]:
    """Return what the current call of a pipeline says of text encoders: `clip_skip` and the scale of LoRA."""
    kept = [values for name in KEPT if (values := getattr(pipe, name, None))]
    return getattr(pipe, "clip_skip", None), kept[0].get("scale") if kept else None


def joined(prompts: Tensor, text: Tensor, ahead: bool = False) -> Tensor:
    """Join `text [1, L, C]` to each of `prompts [B, M, C]`, behind or ahead: `[B, M + L, C]`."""
    rows = text.to(prompts).expand(len(prompts), -1, -1)
    return torch.cat([rows, prompts] if ahead else [prompts, rows], dim=1)
