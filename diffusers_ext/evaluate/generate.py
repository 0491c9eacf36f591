"""The generation loop: batches through a stock pipeline, a generator per image, broken pictures refused."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..call import run
from .video import Clip

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


class BrokenImageError(ValueError):
    """The pipeline returned NaN, infinity or nothing but black."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to make."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture made; `seconds` is its share of the batch, `flags` names what looks suspicious."""

    item: Item
    image: "Image | Clip"
    seconds: float
    flags: tuple[str, ...] = ()


def applied(pipe: Any, methods: Sequence[Any]) -> AbstractContextManager[Any]:
    """`dx.apply`, or nothing at all without methods, so that plain means the stock processors."""
    if not methods:
        return nullcontext()
    from ..session import apply

    return apply(pipe, *methods)


def generate(
    pipe: Any, items: Sequence[Item], call: Mapping[str, Any], batch: int = 1
) -> Iterator[list[Picture]]:
    """Makes `items` in order, `batch` at a time, and yields each batch as it is done.

    Every image has its own CPU generator, so its noise does not depend on the batch; pixels may differ by a
    rounding step.
    Raises `BrokenImageError` for NaN, infinity and all-black images.
    """
    import torch

    if batch < 1:
        raise ValueError(f"a batch needs at least one image, got {batch}; try --batch 8")
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        generators = [torch.Generator("cpu").manual_seed(item.seed) for item in part]
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
            result = run(pipe, [i.prompt for i in part], call, generator=generators, output_type="np")
        seconds = (time.perf_counter() - began) / len(part)
        arrays = result.frames if hasattr(result, "frames") else result.images
        unsafe = getattr(result, "nsfw_content_detected", None) or [False] * len(part)
        yield [
            Picture(item, to_image(array, item, bool(hidden)), seconds, flags_of(array))
            for item, array, hidden in zip(part, arrays, unsafe, strict=True)
        ]


def to_image(array: "np.ndarray", item: Item, hidden: bool = False) -> "Image | Clip":
    """Float [H, W, 3] in 0..1 to a PIL image, [T, H, W, 3] to a clip, the host's own rounding.

    Raises `BrokenImageError`.
    """
    import numpy as np
    from PIL import Image

    about = f"prompt {item.prompt[:60]!r}, seed {item.seed}"
    if hidden:
        raise BrokenImageError(
            f"the pipeline's safety checker blacked out the picture ({about}); try another seed or prompt"
        )
    if not np.isfinite(array).all():
        raise BrokenImageError(
            f"the pipeline returned NaN or infinity ({about}); try --dtype float32, or a smaller scale"
        )
    if not array.any():
        raise BrokenImageError(
            f"the pipeline returned an all-black picture ({about}); try --dtype float32, or a smaller scale"
        )
    pixels = (array * 255).round().astype("uint8")
    if pixels.ndim == 4:
        return Clip(pixels)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def flags_of(array: "np.ndarray") -> tuple[str, ...]:
    """Names of what is suspicious but not certainly wrong about float [H, W, 3] or [T, H, W, 3]."""
    return ("constant",) if float(array.max() - array.min()) < 1 / 255 else ()
