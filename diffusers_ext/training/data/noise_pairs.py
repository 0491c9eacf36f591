"""Read pairs of noise and better noise that `collect` wrote, a batch at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...sampling.npnet.collect import pair_file, rows

HELD_BACK = 10  # every such pair is kept for the evaluation, as the paper's code keeps a tenth


class Pairs(NamedTuple):
    """Hold noise [B, C, h, w], better noise of the same shape, and the prompts of both."""

    noise: torch.Tensor
    golden: torch.Tensor
    prompts: list[str]


class NoisePairs:
    """Draw pairs of the folder `home`; each is read from its file when it is drawn.

    `train` and `held_back` are the numbers of pairs to learn from and to measure with. Raises `ValueError` if
    there are too few pairs.
    """

    def __init__(self, home: Path):
        self.home, self.rows = home, [row for row in rows(home) if row["kept"]]
        if len(self.rows) < 2:
            raise ValueError(
                f"training needs two pairs or more, {home} holds {len(self.rows)}; run "
                "'diffusers-ext collect' first"
            )
        numbers = range(len(self.rows))
        self.held_back = [i for i in numbers if i % HELD_BACK == HELD_BACK - 1] or [numbers[-1]]
        self.train = sorted({*numbers} - {*self.held_back})

    @property
    def mark(self) -> str:
        """The checksum of what was kept, which identifies the data of a run."""
        return hashlib.sha256(json.dumps(self.rows, sort_keys=True).encode()).hexdigest()

    def draw(self, count: int, generator: torch.Generator) -> Pairs:
        """Return `count` random pairs to learn from."""
        chosen = torch.randint(len(self.train), (count,), generator=generator).tolist()
        return self.read([self.train[i] for i in chosen])

    def read(self, numbers: Sequence[int]) -> Pairs:
        """Return pairs by their numbers in `rows`, in fp32."""
        noise, golden = [], []
        for i in numbers:
            with np.load(pair_file(self.home, self.rows[i])) as file:
                noise.append(torch.from_numpy(file["arr_0"]).float())
                golden.append(torch.from_numpy(file["arr_1"]).float())
        return Pairs(torch.cat(noise), torch.cat(golden), [self.rows[i]["caption"] for i in numbers])
