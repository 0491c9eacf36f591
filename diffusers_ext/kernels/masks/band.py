"""Radial attention: a band around the diagonal that narrows with the distance between frames.

Paper: Li et al., "Radial Attention" (arXiv 2506.19852). Tokens of a frame are numbered in raster order;
tokens k and l of two frames at distance d see each other if `|k - l| <= reach(d)`. All see the sink frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..geometry import Grid, unpack
from .rule import Kind, Rule

NEVER = -1
ALL = 1 << 30  # a reach beyond any distance


def paper_reach(frames: int, per_frame: int, floor: int = 1) -> tuple[int, ...]:
    """Compute the band of section 3: with `b = floor(log2(max(d, 1)))`, `|k - l| + 1 <= s / 2^b`.

    The band is never narrower than `floor` tokens (1 in the formula, a block on hardware). If the formula is
    narrower, only every `ceil(floor 2^b / s)`-th frame distance is kept.
    """
    out = []
    for d in range(frames):
        width = per_frame / 2 ** (max(d, 1).bit_length() - 1)
        if d <= 1:
            out.append(per_frame - 1)
        elif width >= floor:
            out.append(int(width) - 1)
        else:
            out.append(floor - 1 if d % math.ceil(floor / width) == 0 else NEVER)
    return tuple(out)


def release_reach(frames: int, per_frame: int, decay: float, floor: int = 128) -> tuple[int, ...]:
    """Compute the band of the published code, which made the published videos.

    It starts from the power of two above the frame, halves once more than the formula, and shrinks by
    `decay`. It is never narrower than a block of `floor` tokens. Frames are thinned out by a rule in units of
    128 tokens. There is one departure. Frames of fewer than 128 tokens see all of their neighbouring frames.
    The code thins out frame distance 1 as well, since its 128 does not depend on the size of the block.
    """
    out = []
    for d in range(frames):
        width = 2 ** per_frame.bit_length() / 2 ** d.bit_length()
        if d <= 1:
            out.append(per_frame - 1)
        elif width >= 128 or d % int(128 / width) == 0:
            out.append(min(int(max(width * decay, floor)), per_frame - 1))
        else:
            out.append(NEVER)
    return tuple(out)


@dataclass(frozen=True)
class Band(Rule):
    """A band of `reach[d]` tokens at frame distance d, `NEVER` for none; `width` is that of the grid."""

    reach: tuple[int, ...]
    width: int
    sink_frames: int = 0
    kind = Kind.BAND

    @property
    def params(self) -> tuple[int, ...]:
        """The width of the grid and the number of sink frames; the table is the reach."""
        return self.width, self.sink_frames

    def table(self) -> Tensor:
        return torch.tensor(self.reach, dtype=torch.int32)

    def axes(self, t: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return t, torch.zeros_like(h), h * self.width + w

    def scores(self, axis: int, qlo: Tensor, qhi: Tensor, klo: Tensor, khi: Tensor) -> tuple[Tensor, Tensor]:
        """Score frames by the reach, less than nothing, and tokens by their distance: `distance <= reach`."""
        if axis:
            return torch.maximum(klo - qhi, qlo - khi).clamp(min=0), torch.maximum(khi - qlo, qhi - klo)
        widest, narrowest = self._extremes
        close = -widest[self._distances(qlo, qhi, klo, khi)]
        # sink frames are seen anyway, so only the frames after them must be within reach
        late = klo.clamp(min=self.sink_frames)
        far = -narrowest[self._distances(qlo, qhi, late, torch.maximum(late, khi))]
        seen, all_seen = klo < self.sink_frames, khi < self.sink_frames
        return close.masked_fill(seen, -ALL), far.masked_fill(all_seen, -ALL)

    def _distances(self, q0: Tensor, q1: Tensor, k0: Tensor, k1: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and largest distance between frames `q0..q1` and `k0..k1`, both ends included."""
        last = len(self.reach) - 1
        least = torch.maximum(k0 - q1, q0 - k1).clamp(0, last)
        return least.long(), torch.maximum(k1 - q0, q1 - k0).clamp(0, last).long()

    def pairs(self, grid: Grid) -> int:
        frames, per_frame = grid[0], grid[1] * grid[2]
        total = 0
        for d, reach in enumerate(self.reach[:frames]):
            # s pairs on the diagonal and 2 (s - x) at distance x
            wide = min(reach, per_frame - 1)
            inside = per_frame + 2 * wide * per_frame - wide * (wide + 1) if wide >= 0 else 0
            for j in range(frames):  # key frame, then the query frames at distance d
                queries = (j - d >= 0) + (j + d < frames) if d else 1
                total += queries * (per_frame**2 if j < self.sink_frames else inside)
        return total

    @cached_property
    def _extremes(self) -> tuple[Tensor, Tensor]:
        """The largest and smallest reach over distances `a..b`, both `[f, f]`, indexed `[a, b]`."""
        reach = self.table()
        upper = torch.ones(len(reach), len(reach), dtype=torch.bool).triu()
        span = reach[None].expand(len(reach), -1)
        widest = span.masked_fill(~upper, NEVER).cummax(1).values
        narrowest = span.masked_fill(~upper, ALL).cummin(1).values
        return widest, narrowest


def sees(params: Sequence[int], table: Tensor, q_coord: Tensor, k_coord: Tensor) -> Tensor:
    """Return whether pairs see each other; `params` and `table` are those of `Band`."""
    width, sink_frames = params
    (qt, qh, qw), (kt, kh, kw) = unpack(q_coord), unpack(k_coord)
    distance = (qt - kt).abs().clamp(max=len(table) - 1)  # sentinels unpack to nonsense; `visible` masks them
    apart = ((qh - kh) * width + qw - kw).abs()
    return (apart <= table[distance.long()]) | (kt < sink_frames)
