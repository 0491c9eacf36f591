"""Test whether a score prefers the right picture, and the right caption, over one with a single mistake."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .captions import Spec
from .mistakes import mistakes
from .render import draw
from .suites import IMAGE_TASKS, suite

if TYPE_CHECKING:
    import torch

    Score = Callable[[torch.Tensor, Sequence[str]], torch.Tensor]  # [B, 3, H, W] in 0..1, B captions -> [B]


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair holds a spec, another spec one mistake away, and a picture of each, uint8 [64, 64, 3]."""

    kind: str
    spec: Spec
    wrong: Spec
    image: np.ndarray
    wrong_image: np.ndarray


def pairs(split: str, kind: str, n: int, seed: int = 0) -> list[Pair]:
    """Draw `n` pairs of a kind of mistake. Their specs come in turn from the tasks of a split that allow it.

    The wrong spec may belong to any split. So a held-out spec is compared with seen ones, too.
    """
    streams = [[s for s in suite(split, task, n, seed) if mistakes(s, kind)] for task in IMAGE_TASKS]
    streams = [stream for stream in streams if stream]
    rng = np.random.default_rng((seed, zlib.crc32(f"{split}/{kind}".encode())))
    found = []
    for turn in range(n):
        stream = streams[turn % len(streams)]
        spec = stream[turn // len(streams) % len(stream)]
        choices = mistakes(spec, kind)
        wrong = choices[rng.integers(len(choices))]
        one, two = rng.integers(2**31, size=2).tolist()
        found.append(Pair(kind, spec, wrong, draw(spec, one), draw(wrong, two)))
    return found


def preferences(
    score: Score, found: Sequence[Pair], change: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> tuple[list[bool], list[bool]]:
    """Return two lists: for each pair, whether the right picture and the right caption are preferred.

    `change` is applied to the pictures [B, 3, 64, 64] first, such as a round trip through an autoencoder.
    A tie is no preference.
    """
    import torch

    def stack(images: Sequence[np.ndarray]) -> torch.Tensor:
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return batch if change is None else change(batch)

    picture, caption = [], []
    with torch.no_grad():
        for start in range(0, len(found), 64):
            some = found[start : start + 64]
            right, other = stack([p.image for p in some]), stack([p.wrong_image for p in some])
            asked, wrong = [p.spec.caption for p in some], [p.wrong.caption for p in some]
            best = score(right, asked)
            picture += (best > score(other, asked)).tolist()
            caption += (best > score(right, wrong)).tolist()
    return picture, caption
