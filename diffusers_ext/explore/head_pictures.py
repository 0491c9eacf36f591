"""Make a picture for each attention head, guided away from a pass that perturbs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core import Method, Site
from ..errors import MethodError
from ..evaluate.score import judge
from ..models.memory import free_bytes
from ..processors.softpag import SoftPAG
from ..sampling.clip import Clip
from ..sampling.failures import BrokenImageError, free_memory, out_of_memory
from . import layers as names
from .estimate import counted
from .head_sheet import HeadPicture, HeadSheet
from .making import arguments, make

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..sampling.progress import Progress

MICRO_BATCH = 8  # pictures at a time
MOST = 128  # heads that are drawn without being asked for by number
Batch = Callable[[Sequence[tuple[Site, int]]], "list[Image | Clip]"]
SCALE = 3.0  # of the guidance: that of the HeadHunter paper, large enough to be seen for one head


def plan(
    pipe: Any,
    layers: str | Sequence[str] | None = None,
    heads: Sequence[int] | None = None,
    *,
    strength: float = 1.0,
    scale: float = SCALE,
    micro_batch: int = MICRO_BATCH,
    most: int = MOST,
) -> list[tuple[Site, int]]:
    """Return the heads that a sheet shows, each with its site, before anything runs; raises like `heads`."""
    named = names.matching(names.sites_of(pipe), layers)
    sites = names.usable(named, ("self", "joint"), "a picture of a head", pipe)
    chosen = names.head_numbers(sites, heads)
    if len(chosen) > most:
        raise MethodError(
            f"a sheet of {len(chosen)} heads in {counted(len(sites), 'layer')} takes {len(chosen) + 1} "
            f"pictures, and at most {most} heads are drawn; choose some by layers or heads, or "
            f"set most to {len(chosen)}."
        )
    if micro_batch < 1:
        raise MethodError(f"a batch is 1 or more pictures, got {micro_batch}; {MICRO_BATCH} is usual.")
    SoftPAG(scale=scale, strength=strength)  # which checks both
    return chosen


def cost(chosen: Sequence[tuple[Site, int]]) -> str:
    """Return the sentence about the pictures that a sheet takes."""
    layers = len({site for site, _ in chosen})
    return (
        f"{len(chosen) + 1} pictures for {counted(len(chosen), 'head')} in {counted(layers, 'layer')}, all "
        "but the first with one more pass a step"
    )


def heads(
    pipe: Any,
    prompt: str,
    *,
    seed: int = 0,
    layers: str | Sequence[str] | None = None,
    heads: Sequence[int] | None = None,
    strength: float = 1.0,
    scale: float = SCALE,
    micro_batch: int = MICRO_BATCH,
    most: int = MOST,
    methods: Sequence[Method] = (),
    progress: Progress | None = None,
    **call: Any,
) -> HeadSheet:
    """Make a picture for each attention head, guided away from a pass in which the head sees only itself.

    It is `SoftPAG` with one head, from the same noise for all; HeadHunter ("Where and How to Perturb", arXiv
    2506.10978) chooses heads by such pictures. The first picture is plain. `layers` has names of attention
    modules or of blocks, or patterns such as `"mid_block*"`, and `heads` are numbers; by default all with
    self- or joint attention. `micro_batch` heads are rows of one batch, fewer where memory runs out.
    `strength` is from 0 to 1, and `scale` that of the guidance. `methods` are in force in all pictures.

    Raises `MethodError` for unknown layers and heads, settings out of range, and more heads than `most`. A
    picture that has NaN is left out with its reason.
    """
    chosen = plan(pipe, layers, heads, strength=strength, scale=scale, micro_batch=micro_batch, most=most)
    call = arguments(pipe, prompt, call)
    if progress is not None:
        call |= progress.hooks(pipe)

    def batch(some: Sequence[tuple[Site, int]]) -> list[Image | Clip]:
        sets = [{site.path: [head]} for site, head in some]
        own = () if not some else (SoftPAG(heads=sets, scale=scale, strength=strength),)
        count = max(len(some), 1)
        return make(pipe, [prompt] * count, [seed] * count, call, (*methods, *own))

    if progress is not None:
        progress.begin(1)
    (plain,) = batch([])
    _check_memory(plain, len(chosen))
    if progress is not None:
        progress.tick(1)
    pictures = []
    for site, head, image, reason in _batches(chosen, batch, micro_batch, progress):
        verdict = None if image is None else judge(image, prompt, seed)
        change = None if image is None else _change(image, plain)
        pictures.append(HeadPicture(site.path, head, image, change, verdict, reason))
    return HeadSheet(prompt, seed, scale, strength, plain, judge(plain, prompt, seed), tuple(pictures))


def _batches(
    chosen: Sequence[tuple[Site, int]], batch: Batch, size: int, progress: Progress | None
) -> Iterator[tuple[Site, int, Image | Clip | None, str]]:
    """Make the pictures of heads, `size` at a time; a batch that fails is tried in smaller ones."""
    left, alone = list(chosen), 0
    while left:
        some = left[: 1 if alone else size]
        if progress is not None:
            progress.begin(len(some))
        reason, images = "", None
        try:
            images = batch(some)
        except BrokenImageError as error:  # one head may have spoiled the others
            reason = str(error)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(some) == 1:
                raise
            size = max(len(some) // 2, 1)
        if images is None and (len(some) > 1 or not reason):
            free_memory()  # outside the handler, since the exception keeps the frames
            alone = len(some) if reason else 0
            continue
        left, alone = left[len(some) :], max(alone - 1, 0)
        for (site, head), image in zip(some, images or [None], strict=True):
            yield site, head, image, reason
        if progress is not None:
            progress.tick(len(some))


def pixels(image: Image | Clip) -> np.ndarray:
    """Return a picture `[H, W, 3]` or the frames of a clip `[T, H, W, 3]` as uint8."""
    return image.frames if isinstance(image, Clip) else np.asarray(image.convert("RGB"))


def _change(image: Image | Clip, plain: Image | Clip) -> float:
    difference = pixels(image).astype(np.float32) - pixels(plain).astype(np.float32)
    return float(np.sqrt((difference**2).mean()))


def _check_memory(plain: Image | Clip, count: int) -> None:
    """Raise `MethodError` if the pictures do not fit into memory, with the number that does."""
    each = pixels(plain).nbytes
    free = free_bytes(torch.device("cpu"))
    if free is not None and each * count > free:
        raise MethodError(
            f"{count} pictures of {each / 2**20:.0f} MiB do not fit into the {free / 2**30:.1f} GiB that are "
            f"free; choose at most {free // each} heads by layers= or heads=."
        )
