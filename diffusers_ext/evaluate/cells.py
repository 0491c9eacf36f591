"""The columns of a comparison, and the pictures in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from .score import Judged


@dataclass(frozen=True)
class Variant:
    """One column of a comparison; no methods means the stock pipeline."""

    label: str
    methods: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One picture of the comparison; one that could not be made has no image, and its verdict is why."""

    label: str
    image: Image | None
    judged: Judged


@dataclass(frozen=True)
class Column:
    """A column is a variant: its verdicts in the order of the suite, and a reader of the PNG of each."""

    label: str
    judged: Sequence[Judged]
    png: Callable[[Judged], bytes]
