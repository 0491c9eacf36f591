"""Keep the maps of a job on disk, so that sliders show others of them without a run and without memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..errors import MethodError
from ..explore.map_data import MapData
from ..explore.map_files import frames
from ..explore.words import Word
from ..sampling.clip import Clip

if TYPE_CHECKING:
    from PIL.Image import Image

MAPS, FRAMES = "maps.safetensors", "frames.npy"


class OnDisk(Mapping[str, Tensor]):
    """The maps of all layers in a file; each is read when it is asked for."""

    def __init__(self, file: Path, layers: Sequence[str]) -> None:
        self._file, self._layers = file, layers

    def __getitem__(self, layer: str) -> Tensor:
        from safetensors import safe_open

        if layer not in self._layers:
            raise KeyError(layer)
        with safe_open(self._file, "pt") as tensors:
            return tensors.get_tensor(layer)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


@dataclass(frozen=True)
class Kept:
    """The maps of one job, without the numbers, which are in `folder`."""

    folder: Path
    prompt: str
    seed: int
    words: tuple[Word, ...]
    steps: tuple[int, ...]
    step_count: int
    layers: tuple[str, ...]

    @classmethod
    def write(cls, found: MapData, folder: Path) -> Kept:
        """Write maps, and the frames below them, to a folder."""
        from safetensors.torch import save_file

        save_file({layer: each.contiguous() for layer, each in found.data.items()}, folder / MAPS)
        below = np.stack([np.asarray(frame.convert("RGB")) for frame in frames(found)])
        np.save(folder / FRAMES, below, allow_pickle=False)
        return cls(folder, found.prompt, found.seed, found.words, found.steps, found.step_count, found.layers)

    @property
    def labels(self) -> list[str]:
        """The words that have maps, as the page shows them."""
        return [word.label for word in self.words]

    def read(self) -> MapData:
        """Return the maps. Raises `MethodError` if they were deleted, as they are after a day."""
        try:
            below = np.load(self.folder / FRAMES, allow_pickle=False)
        except OSError as error:
            raise MethodError("these maps are no longer kept; make them again.") from error
        return MapData(
            self.prompt,
            self.seed,
            self.words,
            self.steps,
            self.step_count,
            OnDisk(self.folder / MAPS, self.layers),
            self._picture(below),
        )

    def _picture(self, below: np.ndarray) -> Image | Clip:
        from PIL import Image

        return Clip(below) if len(below) > 1 else Image.fromarray(below[0])
