"""CLEAR's disk: numbers of tokens, and the table of sizes."""

import pytest
import torch

from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.visible import visible
from diffusers_ext.kernels.plan.spec import RulePlanSpec


@pytest.mark.parametrize(
    "radius, tokens", [(1, 1), (2, 9), (3, 25), (4, 45), (8, 193), (16, 793), (32, 3205)]
)
def test_tokens_of_a_disk(radius, tokens):
    """A token in the middle of a grid larger than the disk sees as many; one in a corner, a quarter."""
    size, rule = 2 * radius + 5, Disk(radius)
    coord = geometry.coded(torch.arange(size**2), (1, size, size))
    middle, corner = (
        visible(rule.kind, rule.params, rule.table(), coord[place], coord)
        for place in (size * (size // 2) + size // 2, 0)
    )
    assert int(middle.sum()) == tokens
    along = radius - 1  # on each of four half axes
    assert int(corner.sum()) == (tokens - 1 - 4 * along) // 4 + 2 * along + 1


# FLUX with 512 text tokens: side of the grid, radius, token density, blocks of 128 in rows, in tiles of 8 x
# 16, of 64 in tiles of 8 x 8; speed-up of blocks of 128 in tiles, in rows
TABLE = [
    (64, 8, 0.243, 0.417, 0.380, 0.303, 2.6, 2.4),
    (64, 16, 0.332, 0.574, 0.472, 0.433, 2.1, 1.7),
    (64, 32, 0.591, 0.815, 0.772, 0.719, 1.3, 1.2),
    (128, 8, 0.070, 0.167, 0.118, 0.090, 8.5, 6.0),
    (128, 16, 0.101, 0.274, 0.153, 0.138, 6.5, 3.7),
    (128, 32, 0.2065, 0.466, 0.302, 0.272, 3.3, 2.15),  # printed as 2.2
    (256, 8, 0.0183, 0.072, 0.0317, 0.0237, 31.6, 13.8),
    (256, 16, 0.0267, 0.131, 0.0420, 0.0377, 23.8, 7.6),
    (256, 32, 0.0586, 0.243, 0.0899, 0.0799, 11.1, 4.1),
    (512, 8, 0.0046, 0.022, 0.0081, 0.0060, 123, 45),
    (512, 16, 0.0068, 0.041, 0.0109, 0.0097, 92, 24),
    (512, 32, 0.0154, 0.078, 0.0242, 0.0214, 41, 13),
]


@pytest.mark.parametrize("side, radius, tokens, rows, tiles, small, tiled_speed, rows_speed", TABLE)
def test_densities_of_flux(side, radius, tokens, rows, tiles, small, tiled_speed, rows_speed):
    rule, grid = Disk(radius), (1, side, side)
    digits = 4 if side > 128 else 3
    spec = RulePlanSpec(rule, grid, 512)
    whole, digit = (side**2 + 512) ** 2, 0.1 if side < 512 else 1
    assert spec.pairs / whole == pytest.approx(tokens, abs=0.51 * 10**-digits)
    in_rows = spec.stats
    assert in_rows.block_density == pytest.approx(rows, abs=0.51e-3)
    assert whole / in_rows.work == pytest.approx(rows_speed, abs=0.51 * digit)
    tiled = RulePlanSpec(rule, grid, 512, 128, 128, (1, 8, 16), (1, 8, 16)).stats
    assert tiled.block_density == pytest.approx(tiles, abs=0.51 * 10**-digits)
    assert whole / tiled.work == pytest.approx(tiled_speed, abs=0.51 * digit)
    tiled = RulePlanSpec(rule, grid, 512, 64, 64, (1, 8, 8), (1, 8, 8)).stats
    assert tiled.block_density == pytest.approx(small, abs=0.51 * 10**-digits)


def test_a_radius_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        Disk(0)
