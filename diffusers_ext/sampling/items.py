"""Define what a pipeline is asked for, and what it returned: a picture or a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from .clip import Clip


@dataclass(frozen=True, slots=True)
class Item:
    """An item is one picture to make."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was made.

    `seconds` is its share of the time of the batch. `flags` names what looks suspicious. A picture of a
    sampler has its `reward`, and its `cost` in evaluations of the denoiser.
    """

    item: Item
    image: Image | Clip
    seconds: float
    flags: tuple[str, ...] = ()
    reward: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A picture that could not be made.

    `reason` is one sentence with the next step. `memory` says that memory ran out.
    """

    item: Item
    reason: str
    memory: bool = False
