"""Hold the pictures of a story, and the masks of its subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MethodError

if TYPE_CHECKING:
    from PIL.Image import Image

FINEST = 128  # places along the longer side of a mask that is kept


@dataclass(frozen=True)
class Panel:
    """A picture of a story, its prompt, and the names of its subjects.

    `plain` is the same scene without the method, from the same noise; for a reference it is the picture
    itself. `masks` has the places of each subject in `plain` as `[h, w]`, from 0 to 1. `missing` names
    subjects that the scene asks for and that were not found, so that nothing keeps their looks.
    """

    image: Image
    plain: Image
    prompt: str
    seed: int
    subjects: tuple[str, ...]
    masks: Mapping[str, list[list[float]]] = field(repr=False)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Story:
    """The pictures of a story: a reference of each subject by name, then its scenes.

    `cache_gib` is the size of the keys and values of the references that were kept for all scenes.
    """

    references: Mapping[str, Panel]
    panels: tuple[Panel, ...]
    cache_gib: float = 0.0

    @property
    def images(self) -> list[Image]:
        """The scenes as pictures."""
        return [panel.image for panel in self.panels]


def mask_rows(found: Any, array: np.ndarray) -> list[list[float]] | None:
    """Return the mask of a segmenter in rows of at most `FINEST` places, from 0 to 1; `None` if it is empty.

    `array` is the picture `[H, W, 3]`. Raises `MethodError` for a mask of another shape.
    """
    if found is None:
        return None
    found = found if isinstance(found, Tensor) else np.asarray(found)
    mask = torch.as_tensor(found, dtype=torch.float32, device="cpu")
    if mask.shape != array.shape[:2]:
        raise MethodError(
            f"a segmenter returns a mask of the picture's shape {array.shape[:2]}, got {tuple(mask.shape)}; "
            "return one value for each pixel."
        )
    if not bool(mask.any()):
        return None
    return _smaller(mask.clamp(0, 1)).tolist()


def _smaller(mask: Tensor) -> Tensor:
    factor = -(-max(mask.shape) // FINEST)
    if factor == 1:
        return mask
    size = [-(-side // factor) for side in mask.shape]
    return F.interpolate(mask[None, None], size, mode="area")[0, 0]
