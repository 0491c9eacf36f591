"""Compare maps of attention over a picture: overlap, binary masks and smoothing, all with gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the overlap of maps `[..., h, w]` that are 0 or more, `sum min(a, b) / sum (a + b)`.

    It is that of A-STAR (arXiv 2306.14544, eq. 1): 0 for maps that are apart, 0.5 for equal ones. A map and
    `s` times the same map have `1 / (1 + s)`, for `s` of 1 or more. Two empty maps have 0.
    """
    both = (a + b).sum((-2, -1))
    return torch.minimum(a, b).sum((-2, -1)) / both.clamp_min(torch.finfo(both.dtype).tiny)


def binarised(maps: Tensor, share: float = 0.5) -> Tensor:
    """Return 1 where maps `[..., h, w]` reach `share` of their largest value, else 0, without gradients."""
    maps = maps.detach()
    return (maps >= share * maps.amax((-2, -1), keepdim=True)).to(maps.dtype)


def smoothed(maps: Tensor, sigma: float = 0.5) -> Tensor:
    """Smooth maps `[..., h, w]` by a Gaussian of 3 x 3 places; the border repeats what is inside.

    A side of one place has nothing to be reflected, so maps that narrow stay as they are.
    """
    if min(maps.shape[-2:]) < 2:
        return maps
    line = torch.tensor([-1.0, 0.0, 1.0], device=maps.device, dtype=maps.dtype)
    line = (-(line**2) / (2 * sigma**2)).exp()
    line = line / line.sum()
    kernel = (line[:, None] * line)[None, None]
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.conv2d(F.pad(flat, (1, 1, 1, 1), mode="reflect"), kernel).reshape(maps.shape)


def apart(maps: Tensor, share: float = 0.5) -> Tensor:
    """Return masks of `maps [S, h, w]`, where no place has two: the largest map wins.

    It must also be above `share` of the way from its least to its largest value.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    largest = torch.arange(len(maps), device=maps.device)[:, None, None] == maps.argmax(0)
    return largest & (maps >= torch.lerp(low, high, share))
