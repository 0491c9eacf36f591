"""Define the columns of a comparison and the pictures in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from .score import Judged


@dataclass(frozen=True)
class Variant:
    """A variant is one column of a comparison; without methods it is the stock pipeline."""

    label: str
    methods: tuple[Any, ...] = ()


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
