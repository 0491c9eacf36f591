import itertools

import pytest
import torch

from diffusers_ext.kernels.masks.neighbours import Neighbours
from diffusers_ext.kernels.plan.spec import RulePlanSpec
from tests.kernels import oracles


def near(grid):
    """bool `[N, N]`, pair by pair."""
    pairs = itertools.product(oracles.cells(grid), repeat=2)
    seen = [max(abs(x - y) for x, y in zip(a, b, strict=True)) <= 1 for a, b in pairs]
    n = len(oracles.cells(grid))
    return torch.tensor(seen).view(n, n)


@pytest.mark.parametrize("grid", [(1, 5, 7), (3, 4, 5), (2, 1, 9), (1, 1, 1)])
@pytest.mark.parametrize("tile", [(1, 2, 4), (2, 2, 2)])
def test_blocks_that_touch(grid, tile):
    size = tile[0] * tile[1] * tile[2]
    spec = RulePlanSpec(Neighbours(), grid, 0, size, size, tile, tile)
    mask = near(grid)[spec.q_order][:, spec.k_order]
    touched, _ = oracles.blocks(mask, torch.ones(len(mask), dtype=torch.bool), size, size)
    assert torch.equal(spec.bitmap(), touched)
    assert Neighbours().pairs(grid) == int(mask.sum())
