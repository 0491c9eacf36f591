"""Rules by themselves: what each sees, pair by pair, against tables and oracles."""

import torch
from torch import Tensor

from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.masks.visible import visible


def seen(rule, grid) -> Tensor:
    """bool `[N, N]`: which tokens of a grid, in raster order, see which by the rule."""
    coord = geometry.coded(torch.arange(grid[0] * grid[1] * grid[2]), grid)
    return visible(rule.kind, rule.params, rule.table(), coord[:, None], coord[None])
