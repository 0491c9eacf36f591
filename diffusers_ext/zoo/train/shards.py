"""Samples 0, 1, 2, ... kept in files: made when first needed, reused, made again identically when lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .loop import replacing

if TYPE_CHECKING:
    import torch


class Shards:
    """`make(number)` gives named arrays [size, ...] for the samples from `number` x `size` on; what it gives
    depends on its argument alone.

    Training starts after `first` samples instead of after the whole set; from then on one sample more may be
    drawn for each `reuse` used, so a run never sees the end of its data.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        make: Callable[[int], Mapping[str, np.ndarray]],
        first: int,
        reuse: int,
    ):
        self.folder, self.size, self.make = folder, size, make
        self.first, self.reuse = first, reuse
        self._open: list[dict[str, torch.Tensor]] = []

    def draw(self, used: int, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """`count` random rows of each array, for the moment when `used` samples have been used."""
        import torch

        known = max(self.first, used // self.reuse) // self.size + 1
        while len(self._open) < known:
            self._open.append(self._load(len(self._open)))
        index = torch.randint(known * self.size, (count,), generator=generator).tolist()
        rows = [(self._open[i // self.size], i % self.size) for i in index]
        return {name: torch.stack([shard[name][at] for shard, at in rows]) for name in self._open[0]}

    def _load(self, number: int) -> dict[str, torch.Tensor]:
        import torch

        path = self.folder / f"{number:04d}.npz"
        if path.exists():
            with np.load(path) as file:
                arrays = dict(file)
        else:
            arrays = self.make(number)
            with replacing(path) as file:
                np.savez(file, **arrays)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
