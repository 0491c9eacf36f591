"""Make the maps of a visitor's prompt in a job, and draw one of them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MethodError
from ..evaluate.score import Judged, judge
from ..explore import token_maps
from ..explore.contact import fitted
from ..explore.map_files import covered
from ..sampling import identity
from ..sampling.call import arguments
from ..sampling.clip import still
from ..sampling.items import Item
from .asked import Asked
from .engine import Control, Place
from .maps_kept import Kept
from .watch import Watch

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT_GIB = 1 / 16  # of the maps of one job
SIDE = 640  # px of a drawing
PREVIEWS = 3  # steps between two


@dataclass(frozen=True, slots=True)
class Mapped:
    """Maps that are kept, the verdict on the picture, and the record of both."""

    kept: Kept
    verdict: Judged
    record: Mapping[str, Any]


def make(control: Control, place: Place, asked: Asked, words: str, folder: Path) -> Mapped:
    """Draw a prompt and read the maps of its words, or of all that mean something if `words` is empty.

    Steps are left out if the maps would take more than `LIMIT_GIB`. Raises `ValueError` for what cannot be
    made.
    """
    asked.check()
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    with place.pipeline(asked.model) as (checkpoint, pipe):
        call = arguments(pipe, checkpoint.call, **asked.call)
        wanted = words.strip() or None
        steps = _steps(token_maps.plan(pipe, asked.prompt, wanted, call, limit_gib=inf))
        found = token_maps.maps(
            pipe,
            asked.prompt,
            wanted,
            steps=steps,
            seed=seed,
            limit_gib=2 * LIMIT_GIB,
            progress=Watch(control, 1, call, "picture", PREVIEWS),
            **call,
        )
        record = identity.of(Item(asked.prompt, seed), identity.shared(pipe, checkpoint, (), call))
    control.check()
    return Mapped(Kept.write(found, folder), judge(found.image, asked.prompt, seed), record)


def draw(kept: Kept, word: str, step: int, layer: str | None) -> tuple[Image, str]:
    """Draw one map over its picture, with a sentence about it; step 0 and no layer stand for the mean.

    Raises `MethodError` for maps that do not exist.
    """
    if not 0 <= step <= len(kept.steps):
        raise MethodError(f"a step is 0 for the mean, or up to {len(kept.steps)}, got {step}.")
    found = kept.read()
    values = found.map(word, step=kept.steps[step - 1] if step else None, layer=layer)
    t, h, w = values.shape
    size = f"{h} x {w} places" if t == 1 else f"{t} frames of {h} x {w} places"
    when = f"step {kept.steps[step - 1] + 1} of {kept.step_count}" if step else "the mean over steps"
    where = layer or "the mean over layers"
    text = f"{word}: at most {float(values.max()):.3g} of the attention of a place, {when}, {where}, {size}"
    return fitted(covered(found, values), SIDE), text


def plain(kept: Kept) -> Image:
    """Return the picture without a map, as large as with one; of a clip, the frames that have maps."""
    return fitted(still(kept.read().image), SIDE)


def _steps(planned: token_maps.MapPlan) -> Sequence[int] | None:
    """Return the steps whose maps fit, evenly spread; `None` for all."""
    limit = LIMIT_GIB * 2**30
    if planned.size <= limit:
        return None
    count = max(int(planned.step_count * limit / planned.size), 1)
    return [round(i * (planned.step_count - 1) / max(count - 1, 1)) for i in range(count)]
