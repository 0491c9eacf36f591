"""Find the part of a prompt that a model cannot read, since it is longer than its tokenizers take."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from textwrap import shorten
from typing import Any


def cut_text(pipe: Any, prompt: str, call: Mapping[str, Any]) -> list[str]:
    """Write a sentence for each tokenizer limit that the prompt exceeds, with what will not be read."""
    cuts: dict[tuple[int, int, str], list[str]] = {}
    for suffix in ("", "_2", "_3"):
        tokenizer = getattr(pipe, f"tokenizer{suffix}", None)
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if tokenizer is None or encoder is None:
            continue
        limit = tokenizer.model_max_length
        if not encoder.config.model_type.startswith("clip"):
            default = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
            limit = call.get("max_sequence_length", default.default if default else limit)
        text = tokenizer(prompt, truncation=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
        ids = text.input_ids
        if len(ids) > limit:
            # The last place is for the end token. Decoding would turn unknown words into special tokens.
            lost = (
                prompt[text.offset_mapping[limit - 1][0] :]
                if tokenizer.is_fast
                else tokenizer.decode(ids[limit - 1 : -1])
            )
            cuts.setdefault((len(ids), limit, lost), []).append(f"tokenizer{suffix}")
    return [
        f"the prompt {shorten(prompt, 40, placeholder='...')!r} has {count} tokens, the limit of "
        f"{', '.join(names)} is {limit}; cut off: {lost!r}"
        for (count, limit, lost), names in cuts.items()
    ]


class TruncationFilter(logging.Filter):
    """Drop diffusers' lines about truncation, one per tokenizer and batch. `cut_text` has said it before."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "was truncated because" not in record.getMessage()
