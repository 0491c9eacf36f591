"""Run batches through a stock pipeline, with a random generator per image; failures do not stop the loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .call import run
from .clip import Clip
from .failures import BrokenImageError, broken, free_memory, hits_all, out_of_memory, reason_of
from .items import Failed, Item, Picture

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from .progress import Progress

_GIVE_UP = 5  # failures of one kind before anything was made; more would be a waste of hours


def applied(pipe: Any, methods: Sequence[Any]) -> AbstractContextManager[Any]:
    """Apply methods to a pipeline; without methods do nothing, so that plain means the stock processors."""
    if not methods:
        return nullcontext()
    from ..session.session import apply

    return apply(pipe, *methods)


def generate(
    pipe: Any,
    items: Sequence[Item],
    call: Mapping[str, Any],
    batch: int = 1,
    progress: Progress | None = None,
    sampler: Any = None,
) -> Iterator[list[Picture]]:
    """Make `items` in order, `batch` at a time, and yield each batch as it is done.

    A `sampler` makes the pictures if there is one, and its first candidates have the noise that pictures
    without a sampler have.

    Every image has its own CPU generator, so its noise does not depend on the batch; pixels may differ by a
    rounding step.

    With `progress`, a picture that cannot be made is reported to it, and the loop goes on. The images of a
    batch that fails are tried one at a time. After memory ran out, all later images are made one at a time.
    Errors that every picture would meet are raised (`failures.hits_all`). After a request to stop,
    `Interrupted` is raised between two batches.

    Without `progress` the first failure is raised: `BrokenImageError` for NaN, infinity and all-black images.
    """
    if batch < 1:
        raise ValueError(f"a batch needs at least one image, got {batch}; try --batch 8")
    left, most, any_made, alike = list(items), batch, False, []
    retried = 0  # first images of `left` that are tried alone, since their batch failed
    while left:
        size = 1 if retried else min(most, len(left))
        part, retried = left[:size], max(retried - 1, 0)
        outcome = _attempt(pipe, part, call, progress, sampler)
        if isinstance(outcome, _Trouble):
            free_memory()
            if outcome.memory and size > 1:
                most = 1
                progress.say(f"{size} images at a time do not fit into memory; going on with one at a time")
            if size > 1:
                retried = size
                continue
            outcome = [Failed(part[0], outcome.reason, outcome.memory)]
        left = left[size:]
        made = [o for o in outcome if isinstance(o, Picture)]
        failed = [o for o in outcome if isinstance(o, Failed)]
        any_made = any_made or bool(made)
        alike += [_kind(f.reason) for f in failed]
        for f in failed:
            progress.fail(f)
        if made:
            yield made
        if left and not any_made and len(alike) >= _GIVE_UP and len(set(alike)) == 1:
            for item in left:
                progress.fail(
                    Failed(item, f"not tried ({about(item)}), since the first {len(alike)} failed alike")
                )
            return


@dataclass(frozen=True, slots=True)
class _Trouble:
    """The call of one batch failed, so none of its pictures was made."""

    reason: str
    memory: bool


def _attempt(
    pipe: Any, part: Sequence[Item], call: Mapping[str, Any], progress: Progress | None, sampler: Any
) -> list[Picture | Failed] | _Trouble:
    """Make one batch. An exception of the call ends here, which frees the memory of its frames."""
    if progress is None:
        return [_picture(made, pipe, call) for made in _run(pipe, part, call, None, sampler)]
    progress.begin(len(part))
    try:
        rows = _run(pipe, part, call, progress, sampler)
    except Exception as error:
        if hits_all(error):
            raise
        progress.trace(error)
        return _Trouble(reason_of(error, pipe, call, about(part[0])), out_of_memory(error))
    outcome: list[Picture | Failed] = []
    for made in rows:
        try:
            outcome.append(_picture(made, pipe, call))
        except BrokenImageError as error:
            if hits_all(error):
                raise
            outcome.append(Failed(made.item, str(error)))
    if len(part) > 1 and all(isinstance(o, Failed) for o in outcome):  # one row may have spoiled the others
        return _Trouble(outcome[0].reason, False)
    return outcome


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """What a call returned for one item: an array, and if a safety checker has hidden it."""

    item: Item
    array: np.ndarray
    hidden: bool
    seconds: float
    reward: float | None = None
    cost: float | None = None


def _run(
    pipe: Any, part: Sequence[Item], call: Mapping[str, Any], progress: Progress | None, sampler: Any
) -> list[_Made]:
    """Call the pipeline, or the sampler with it."""
    import torch

    generators = [torch.Generator("cpu").manual_seed(item.seed) for item in part]
    prompts = [i.prompt for i in part]
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
        if sampler is None:
            hooks = progress.hooks(pipe) if progress is not None else {}
            result = run(pipe, prompts, call, generator=generators, output_type="np", **hooks)
        else:
            show = progress.searching if progress is not None else False
            result = sampler.sample(
                pipe, prompts, generator=generators, output_type="np", progress=show, **call
            )
    seconds = (time.perf_counter() - began) / len(part)
    if sampler is not None:
        facts = zip(part, result.images, result.scores.tolist(), result.costs(), strict=True)
        return [_Made(i, a, False, seconds, reward, cost) for i, a, reward, cost in facts]
    arrays = result.frames if hasattr(result, "frames") else result.images
    unsafe = getattr(result, "nsfw_content_detected", None) or [False] * len(part)
    return [_Made(i, a, bool(h), seconds) for i, a, h in zip(part, arrays, unsafe, strict=True)]


def _picture(made: _Made, pipe: Any, call: Mapping[str, Any]) -> Picture:
    item = made.item
    image = to_image(made.array, item, made.hidden, lambda what: broken(what, about(item), pipe, call))
    return Picture(item, image, made.seconds, flags_of(made.array), made.reward, made.cost)


def _kind(reason: str) -> str:
    """Return what failures of one kind share: the fact, without the picture and the next step."""
    return reason.partition(" (prompt")[0]


def about(item: Item) -> str:
    """Name the picture that a sentence is about."""
    return f"prompt {item.prompt[:60]!r}, seed {item.seed}"


def to_image(
    array: np.ndarray,
    item: Item,
    hidden: bool = False,
    error: Callable[[str], BrokenImageError] | None = None,
) -> Image | Clip:
    """Turn float `[H, W, 3]` in 0..1 into a PIL image, `[T, H, W, 3]` into a clip, rounded as diffusers does.

    Raises `BrokenImageError` for NaN, infinity and nothing but black. `error` builds that exception from a
    description of what was returned.
    """
    import numpy as np
    from PIL import Image

    if hidden:
        raise BrokenImageError(
            f"the pipeline's safety checker blacked out the picture ({about(item)}); try another seed or "
            "prompt"
        )
    finite = np.isfinite(array).all()
    if not finite or not array.any():
        what = "an all-black picture" if finite else "NaN or infinity"
        raise (
            BrokenImageError(f"the pipeline returned {what} ({about(item)}); try another seed")
            if error is None
            else error(what)
        )
    pixels = (array * 255).round().astype("uint8")
    if pixels.ndim == 4:
        return Clip(pixels)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def flags_of(array: np.ndarray) -> tuple[str, ...]:
    """Name what is suspicious, but not certainly wrong, about float `[H, W, 3]` or `[T, H, W, 3]`."""
    return ("constant",) if float(array.max() - array.min()) < 1 / 255 else ()
