"""Turn keys with rotary positions to other positions."""

from collections.abc import Sequence

import torch
from torch import Tensor


def turned(k: Tensor, distance: Tensor, channels: Sequence[int], theta: float) -> Tensor:
    """Turn keys `[B, S, H, D]` as if they stood further by `distance [S, A]` along each of A axes.

    Axis a owns the next `channels[a]` channels. Its pair j of neighbouring channels turns by
    `distance * theta ** (-2 j / channels[a])`, as in RoFormer (arXiv 2104.09864, eq. 15). So keys that were
    turned to their own position come to the new one.
    """
    exact = torch.float32 if k.device.type == "mps" else torch.float64
    angles = []
    for axis, count in enumerate(channels):
        pairs = torch.arange(0, count, 2, device=k.device, dtype=exact) / count
        angles.append(distance[:, axis, None].to(exact) * theta**-pairs)
    angle = torch.cat(angles, dim=1)[:, None]  # [S, 1, D / 2]
    wide = k.to(torch.promote_types(k.dtype, torch.float32))
    x, y = wide.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angle.cos().to(wide.dtype), angle.sin().to(wide.dtype)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], -1).flatten(-2).to(k.dtype)
