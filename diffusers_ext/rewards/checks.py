"""Check what a reward is given and what it answers, and turn pictures of PIL into the tensors it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SLACK = 0.01  # by which pictures may leave 0..1; resizing and finite differences overshoot a little
SHAPES = {"image": "[B, 3, H, W]", "video": "[B, T, 3, H, W]"}  # by what a reward scores


def check_images(images: Any, *spaces: str) -> None:
    """Raise `ValueError` unless `images` is a float tensor in 0..1 with the shape of one of `spaces`.

    Values that are not numbers pass, since a search drops what they lead to.
    """
    rule = f"a reward takes float images {' or '.join(SHAPES[space] for space in spaces)} in 0..1"
    if not isinstance(images, Tensor):
        raise ValueError(
            f"{rule}, got {_kind(images)}; convert pictures of PIL by dx.rewards.to_tensor([picture, ...])"
        )
    came = f"{images.dtype} {list(images.shape)}"
    if not images.is_floating_point():
        raise ValueError(f"{rule}, got {came}; divide by 255")
    if images.ndim not in {len(SHAPES[space].split()) for space in spaces} or images.shape[-3] != 3:
        raise ValueError(f"{rule}, got {came}; one picture is images[None]")
    if not images.numel():
        raise ValueError(f"{rule}, got none ({list(images.shape)}); pass at least one picture")
    low, high = (value.item() for value in images.detach().aminmax())
    if high > 1 + SLACK:
        step = "divide by 255" if high > 2 else "clamp them"
        raise ValueError(f"{rule}, got values up to {high:g}; {step}")
    if low < -SLACK:
        raise ValueError(f"{rule}, got values down to {low:g}; pictures in -1..1 become (images + 1) / 2")


def check_prompts(prompts: Any, count: int) -> list[str]:
    """Return the prompts of `count` pictures as a list; raises `ValueError` unless each picture has one."""
    if isinstance(prompts, str):
        came = "one string"
    elif not isinstance(prompts, Sequence):
        came = _kind(prompts)
    elif other := [p for p in prompts if not isinstance(p, str)]:
        came = f"a list with {_kind(other[0])}"
    elif len(prompts) != count:
        came = f"{len(prompts)} prompts"
    else:
        return list(prompts)
    raise ValueError(
        f"a reward takes a list of one prompt for each image, got {came} for {count} images; "
        "repeat a prompt for each of its pictures"
    )


def check_scores(found: Any, name: str, images: Tensor) -> Tensor:
    """Return scores as float32 [B] on the device of `images` [B, ...].

    Raises `ValueError` with the name of the reward if there is not one number for each picture. Scores that
    are not finite pass.
    """
    rule = f"reward {name!r} must return one score for each picture, [{len(images)}]"
    if found is None:
        raise ValueError(f"{rule}, and returned None; does its function end without a return?")
    try:
        scores = found if isinstance(found, Tensor) else torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{rule}, and returned {_kind(found)} ({error}); return numbers") from error
    if scores.shape != images.shape[:1]:
        raise ValueError(
            f"{rule}, and returned shape {list(scores.shape)}; return the scores of single pictures, not "
            "their mean or a table"
        )
    if scores.is_complex():
        raise ValueError(f"{rule}, and returned {scores.dtype}; return real numbers")
    return scores.to(images.device, torch.float32)


def to_tensor(pictures: Sequence[Any]) -> Tensor:
    """Turn pictures of PIL into a float tensor [B, 3, H, W] in 0..1.

    Lists of frames, one for each clip, become [B, T, 3, H, W]. Raises `ValueError` for pictures that differ
    in size, and for anything else.
    """
    from PIL.Image import Image

    if not isinstance(pictures, (list, tuple)) or not pictures:
        raise ValueError(f"to_tensor takes a list of pictures of PIL, got {_kind(pictures)}; write [picture]")
    parts = []
    for picture in pictures:
        if isinstance(picture, (list, tuple)):
            parts.append(to_tensor(picture))
        elif isinstance(picture, Image):
            pixels = torch.from_numpy(np.array(picture.convert("RGB")))
            parts.append(pixels.permute(2, 0, 1).float() / 255)
        else:
            raise ValueError(
                f"to_tensor takes pictures of PIL, got {_kind(picture)}; tensors need no conversion"
            )
    if len({part.shape for part in parts}) > 1:
        sizes = sorted({f"{part.shape[-1]} x {part.shape[-2]}" for part in parts})
        raise ValueError(
            f"to_tensor takes pictures of one size, and clips of one length, got {', '.join(sizes)} px; "
            "convert them one by one"
        )
    return torch.stack(parts)


def to_pil(images: Tensor) -> list[Any]:
    """Turn a float tensor [B, 3, H, W] in 0..1 into pictures of PIL, rounded to steps of 1/255."""
    from PIL import Image

    pixels = (images.detach().float().nan_to_num().clamp(0, 1) * 255).round().byte()
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def _kind(value: Any) -> str:
    """Name what came, for a message."""
    if isinstance(value, (list, tuple)) and not value:
        return "an empty list"
    name = type(value).__name__
    return "a NumPy array" if isinstance(value, np.ndarray) else f"a{'n' * (name[0] in 'aeiou')} {name}"
