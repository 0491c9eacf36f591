"""Hold the maps of words over one picture, and give them out by word, step, layer and head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import nearest_names
from ..errors import MethodError
from ..sampling.clip import Clip
from .words import Word

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class MapData:
    """Maps of words over one picture, with the picture.

    `data` holds for each layer, by its path, a tensor `[S, W, H, t, h, w]` in fp32: steps that were read,
    words, heads (1 if they are averaged), and the grid of tokens there. A number is the share of its
    attention that a place pays to a word, the mean over the tokens of the word. Steps at which a layer did
    not run hold NaN. `steps` are their numbers out of `step_count`.
    """

    prompt: str
    seed: int
    words: tuple[Word, ...]
    steps: tuple[int, ...]
    step_count: int
    data: Mapping[str, Tensor]
    image: Image | Clip

    @property
    def layers(self) -> tuple[str, ...]:
        """The paths of the layers, in the order in which they run."""
        return tuple(self.data)

    @property
    def grid(self) -> tuple[int, int, int]:
        """The finest grid `(t, h, w)` of all layers, which means over layers have."""
        return max((tuple(each.shape[-3:]) for each in self.data.values()), key=lambda shape: shape[1:])

    def map(
        self, word: str, *, step: int | None = None, layer: str | None = None, head: int | None = None
    ) -> Tensor:
        """Return the map of a word `[t, h, w]`: that of a step, a layer and a head, or the mean over them.

        The mean over layers has the finest grid, to which the others are enlarged. Raises `MethodError` for a
        word, step, layer or head that was not read.
        """
        place = self._place(word)
        row = None if step is None else self._row(step)
        chosen = self.layers if layer is None else (self._layer(layer),)
        found = []
        for path in chosen:
            each = self.data[path][:, place]  # [S, H, t, h, w]
            if head is not None:
                each = each[:, self._head(path, head)].unsqueeze(1)
            each = each if row is None else each[row].unsqueeze(0)
            each = each[~each.isnan().flatten(1).any(1)]
            if len(each):
                found.append(each.mean((0, 1)))
        if not found:
            raise MethodError(
                f"{self._layer(layer) if layer else 'the layers that were read'} did not run at step {step}; "
                "leave step out for the mean over steps."
            )
        return found[0] if layer is not None else torch.stack([self._enlarged(m) for m in found]).mean(0)

    def _enlarged(self, found: Tensor) -> Tensor:
        size = self.grid[1:]
        if found.shape[-2:] == size:
            return found
        return F.interpolate(found[:, None], size, mode="bilinear", align_corners=False)[:, 0]

    def _place(self, word: str) -> int:
        labels = [each.label for each in self.words]
        if word not in labels:
            closest = ", ".join(map(repr, nearest_names(str(word), labels)))
            raise MethodError(f"no map of {word!r} was read; there are maps of {closest}.")
        return labels.index(word)

    def _row(self, step: int) -> int:
        if step not in self.steps:
            raise MethodError(
                f"no map of step {step!r} was read; steps count from 0, and there are maps of "
                f"{', '.join(map(str, self.steps))}."
            )
        return self.steps.index(step)

    def _layer(self, layer: str) -> str:
        found = [path for path in self.layers if layer in (path, path.partition(".")[2])]
        if not found:
            closest = ", ".join(nearest_names(layer, self.layers))
            raise MethodError(f"no map of the layer {layer!r} was read; the nearest are {closest}.")
        return found[0]

    def _head(self, path: str, head: int) -> int:
        count = self.data[path].shape[2]
        if count == 1:
            raise MethodError(
                f"these maps are means over heads, got head={head}; call maps(..., per_head=True) for single "
                "heads."
            )
        if not 0 <= head < count:
            raise MethodError(f"{path} has heads 0 to {count - 1}, got {head}; choose one of them.")
        return head
