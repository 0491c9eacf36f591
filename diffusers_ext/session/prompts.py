"""Read the prompts of the pipeline call that runs, and find its tokenizers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedError

_COPIES = ("num_images_per_prompt", "num_videos_per_prompt")


def check_prompts(pipe: Any, method: str) -> None:
    """Raise `UnsupportedError` for a target whose prompts cannot be read and encoded."""
    kind = type(pipe).__name__
    if pipe is None:
        raise UnsupportedError(
            f"{method} reads the words of the prompt, which a bare denoiser never sees; apply it to the "
            "pipeline."
        )
    if not hasattr(type(pipe), "encode_prompt") or "prompt" not in _parameters(type(pipe).__call__):
        raise UnsupportedError(
            f"{method} reads the words of the prompt, but {kind} does not take one as text; use a pipeline "
            "with prompt= and encode_prompt(), such as StableDiffusionPipeline."
        )
    if not tokenizers(pipe):
        raise UnsupportedError(
            f"{method} finds words among the tokens of a prompt, but this {kind} was loaded without a "
            "tokenizer; load it with its tokenizer and text encoder."
        )


def tokenizers(pipe: Any) -> tuple[Any, ...]:
    """Return the tokenizers of a pipeline."""
    found = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
    return tuple(tokenizer for tokenizer in found if tokenizer is not None)


def prompts_of(pipe: Any, method: str) -> tuple[tuple[str, ...], int]:
    """Return the prompts of the call of `pipe` that runs in this thread, and the pictures of each.

    Raises `UnsupportedError` for a call without text, and for a second prompt that differs from the first.
    """
    call = _arguments(pipe)
    prompt = call.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UnsupportedError(
            f"{method} reads the words of the prompt, but {type(pipe).__name__} was called without prompt= "
            "as text (prompt_embeds= has no words); pass the text."
        )
    second = call.get("prompt_2")
    if second is not None and ([second] if isinstance(second, str) else list(second)) != texts:
        raise UnsupportedError(
            f"{method} finds words at the same tokens of both text encoders, but prompt_2 differs from "
            "prompt; leave prompt_2 out."
        )
    if hasattr(pipe, "maybe_convert_prompt"):  # words of textual inversion that stand for several tokens
        texts = [pipe.maybe_convert_prompt(text, tokenizers(pipe)[0]) for text in texts]
    copies = next((call[name] for name in _COPIES if call.get(name)), 1)
    return tuple(texts), int(copies)


def _arguments(pipe: Any) -> Mapping[str, Any]:
    """Return the local names of the innermost `__call__` of a pipeline that runs in this thread."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is pipe:
            return frame.f_locals
        frame = frame.f_back
    return {}


def _parameters(function: Any) -> Mapping[str, Any]:
    return inspect.signature(inspect.unwrap(function)).parameters
