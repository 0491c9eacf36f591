"""Define the columns of a comparison and the pictures in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..settings import methods, samplers

if TYPE_CHECKING:
    from PIL.Image import Image

    from .score import Judged


@dataclass(frozen=True)
class Variant:
    """A variant is one column of a comparison; without methods and sampler it is the stock pipeline.

    `rewards` says in a record what the sampler scores with.
    """

    label: str
    methods: tuple[Any, ...] = ()
    sampler: Any = None
    rewards: tuple[Mapping[str, Any], ...] = ()

    def settings(self) -> list[dict[str, Any]]:
        """Return the methods and then the sampler, with all settings, as plain JSON data."""
        own = [] if self.sampler is None else [samplers.as_dict(self.sampler, self.rewards)]
        return [*map(methods.as_dict, self.methods), *own]


@dataclass(frozen=True)
class Cell:
    """A cell is one picture of the comparison.

    If the picture could not be made, `image` is `None` and the verdict gives the reason.
    """

    label: str
    image: Image | None
    judged: Judged


@dataclass(frozen=True)
class Column:
    """A column holds the verdicts of a variant in the order of the suite, and reads the PNG of each."""

    label: str
    judged: Sequence[Judged]
    png: Callable[[Judged], bytes]
