"""Encode a text as a pipeline encodes its prompts, and put it beside theirs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError

KEPT = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")  # the scale of LoRA is in one


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
