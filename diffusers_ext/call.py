"""What is asked of a host pipeline, checked before the first step: sizes, steps, seeds, prompt length."""

import inspect
import logging
import math
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

SEED_LIMIT = 2**63
MAX_PIXELS = 2**26  # 8192 x 8192; above it the host dies in an allocation, not in a sentence


def seed_of(text: str | int) -> int:
    """A seed from user input; raises `ValueError` unless it is a whole number in [0, 2**63)."""
    try:
        seed = int(str(text).strip())
    except ValueError:
        seed = -1
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"a seed must be a whole number from 0 to 2**63 - 1, got {text!r}; try --seed 0")
    return seed


def arguments(pipe: Any, defaults: Mapping[str, Any], **asked: Any) -> dict[str, Any]:
    """Arguments for `pipe(...)`: `defaults` of the model, then what was asked (`None` means not asked).

    Raises `ValueError` for an argument that the pipeline does not take and for sizes it cannot make.
    """
    known = inspect.signature(type(pipe).__call__).parameters
    asked = {k: v for k, v in asked.items() if v is not None}
    for name in asked:
        if name not in known:
            raise ValueError(f"{type(pipe).__name__} takes no {name}; leave it out")
    call = {k: v for k, v in defaults.items() if k in known} | asked
    steps = call.get("num_inference_steps", 1)
    if not 1 <= steps <= 1000:
        raise ValueError(f"the number of steps must lie between 1 and 1000, got {steps}; 15 to 50 is usual")
    if not math.isfinite(call.get("guidance_scale", 1.0)):
        raise ValueError(
            f"the guidance scale must be a finite number, got {call['guidance_scale']}; 1 switches it off"
        )
    check_size(pipe, call.get("height"), call.get("width"))
    check_frames(pipe, call.get("num_frames"))
    return call


def makes_videos(pipe: Any) -> bool:
    """Whether a pipeline returns frames instead of one image."""
    return "num_frames" in inspect.signature(type(pipe).__call__).parameters


def check_frames(pipe: Any, frames: int | None) -> None:
    """Raises `ValueError` with the nearest valid number of frames; `None` leaves it to the pipeline."""
    unit = getattr(pipe, "vae_scale_factor_temporal", 1)
    if frames is not None and (frames < 1 or (frames - 1) % unit):
        near = max(round((frames - 1) / unit), 0) * unit + 1
        raise ValueError(
            f"{type(pipe).__name__} needs a number of frames that is 1 more than a multiple of {unit}, "
            f"got {frames}; the nearest is {near}"
        )


def check_size(pipe: Any, height: int | None, width: int | None) -> None:
    """Raises `ValueError` with the nearest valid size in px; `None` leaves a side to the pipeline."""
    unit, limit = size_unit(pipe), size_limit(pipe)
    for side, value in (("height", height), ("width", width)):
        if value is None:
            continue
        near = min(max(round(value / unit), 1) * unit, limit or MAX_PIXELS)
        if value < 1 or value % unit or (limit and value > limit):
            rule = f"a multiple of {unit} px" + (f" up to {limit}" if limit else "")
            raise ValueError(
                f"{type(pipe).__name__} needs a {side} that is {rule}, got {value}; the nearest is {near}"
            )
    if height and width and height * width > MAX_PIXELS:
        raise ValueError(
            f"an image may have up to {MAX_PIXELS} px, got {height} x {width}; ask for a smaller one"
        )


def size_unit(pipe: Any) -> int:
    """Image sides must be a multiple of this, in px."""
    if (spatial := getattr(pipe, "vae_scale_factor_spatial", None)) is not None:
        patch = getattr(getattr(pipe.transformer, "config", None), "patch_size", 1)
        # Video pipelines refuse sides off 16 px, whatever their autoencoder could do.
        return math.lcm(16, spatial * (patch if isinstance(patch, int) else patch[-1]))
    scale = getattr(pipe, "vae_scale_factor", 1)
    processor = getattr(pipe, "image_processor", None)
    # Flux states its packed 2x2 patches in the image processor, SD3 in `patch_size`.
    own = processor.config.vae_scale_factor if processor is not None else 1
    return max(scale * (getattr(pipe, "patch_size", None) or 1), own)


def size_limit(pipe: Any) -> int | None:
    """Longest side in px where the position table of the denoiser ends, else `None`."""
    denoiser = getattr(pipe, "transformer", None)
    table = getattr(getattr(denoiser, "config", None), "pos_embed_max_size", None)
    return table * size_unit(pipe) if table else None


def cut_text(pipe: Any, prompt: str, call: Mapping[str, Any]) -> list[str]:
    """One sentence for each tokenizer limit that the prompt exceeds, showing what the model will not read."""
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


class CutTextSaid(logging.Filter):
    """Drops the host's lines about truncation, one per tokenizer and batch, where `cut_text` has said it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "was truncated because" not in record.getMessage()
