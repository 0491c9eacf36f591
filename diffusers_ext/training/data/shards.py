"""Keep samples 0, 1, 2, ... in files: made when first needed, reused, and made again identically if lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ...outputs.files import remove_leftovers, replacing
from ..prepare import preparing

Arrays = Mapping[str, np.ndarray]


class Shards:
    """Draw training samples from files (shards) that `make` fills.

    `make(number, done)` returns pieces of named arrays [samples, ...], for samples from `number` x `size` on.
    They depend on `number` alone. The pieces of a run that was stopped are kept, and the first `done` samples
    are left out.

    Training starts after `first` samples, before the complete set exists. From then on one sample more may be
    drawn for each `reuse` samples used, so a run never sees the end of its data.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        make: Callable[[int, int], Iterable[Arrays]],
        first: int,
        reuse: int,
    ):
        self.folder, self.size, self.make = folder, size, make
        self.first, self.reuse = first, reuse
        self._open: list[dict[str, torch.Tensor]] = []

    def draw(self, used: int, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return `count` random rows of each array, for the moment when `used` samples have been used."""
        known = (max(self.first, used // self.reuse) // self.size + 1) * self.size
        return self.take(torch.randint(known, (count,), generator=generator).tolist())

    def take(self, index: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the rows of these numbers of each array."""
        while len(self._open) <= max(index) // self.size:
            self._open.append(self._load(len(self._open)))
        rows = [(self._open[i // self.size], i % self.size) for i in index]
        return {name: torch.stack([shard[name][at] for shard, at in rows]) for name in self._open[0]}

    def _load(self, number: int) -> dict[str, torch.Tensor]:
        path = self.folder / f"{number:04d}.npz"
        if path.exists():
            with np.load(path) as file:
                arrays = dict(file)
        else:
            arrays = self._made(number, path)
            with replacing(path, parents=True) as file:
                np.savez(file, **arrays)
            path.with_suffix(".part.npz").unlink(missing_ok=True)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _made(self, number: int, path: Path) -> Arrays:
        remove_leftovers(self.folder)
        pieces, done, part = [], 0, path.with_suffix(".part.npz")
        if part.exists():
            with np.load(part) as file:
                pieces = [dict(file)]
            done = _rows(pieces[0])
        found = len(pieces)
        what = f"{self.size} samples of training data, kept as {str(path)!r}"
        try:
            with preparing(what, self.size, done) as tick:
                for piece in self.make(number, done):
                    pieces.append(piece)
                    tick(_rows(piece))
        except BaseException:  # stop requests above all
            if len(pieces) > found:
                with replacing(part, parents=True) as file:
                    np.savez(file, **_joined(pieces))
            raise
        return _joined(pieces)


def _rows(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))


def _joined(pieces: list[Arrays]) -> Arrays:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
