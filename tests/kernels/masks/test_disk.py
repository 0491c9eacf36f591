"""CLEAR's disk: numbers of tokens, and the table of sizes."""

import pytest

from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.recipe import Recipe


@pytest.mark.parametrize(
    "radius, tokens", [(1, 1), (2, 9), (3, 25), (4, 45), (8, 193), (16, 793), (32, 3205)]
)
def test_tokens_of_a_disk(radius, tokens):
    """A token in the middle of a grid larger than the disk, against the whole and against its neighbours."""
    size = 2 * radius + 5
    middle = sum(
        (y - size // 2) ** 2 + (x - size // 2) ** 2 < radius**2 for y in range(size) for x in range(size)
    )
    assert middle == tokens


# FLUX with 512 text tokens: side of the grid, radius, token density, blocks of 128 in rows, in tiles of 8 x
# 16, of 64 in tiles of 8 x 8
TABLE = [
    (64, 8, 0.243, 0.417, 0.380, 0.303),
    (64, 16, 0.332, 0.574, 0.472, 0.433),
    (64, 32, 0.591, 0.815, 0.772, 0.719),
    (128, 8, 0.070, 0.167, 0.118, 0.090),
    (128, 16, 0.101, 0.274, 0.153, 0.138),
    (128, 32, 0.2065, 0.466, 0.302, 0.272),
    (256, 8, 0.0183, 0.072, 0.0317, 0.0237),
    (256, 16, 0.0267, 0.131, 0.0420, 0.0377),
    (256, 32, 0.0586, 0.243, 0.0899, 0.0799),
    (512, 8, 0.0046, 0.022, 0.0081, 0.0060),
    (512, 16, 0.0068, 0.041, 0.0109, 0.0097),
    (512, 32, 0.0154, 0.078, 0.0242, 0.0214),
]


@pytest.mark.parametrize("side, radius, tokens, rows, tiles, small", TABLE)
def test_densities_of_flux(side, radius, tokens, rows, tiles, small):
    rule, grid = Disk(radius), (1, side, side)
    digits = 4 if side > 128 else 3
    recipe = Recipe(rule, grid, 512)
    assert recipe.pairs / (side**2 + 512) ** 2 == pytest.approx(tokens, abs=0.51 * 10**-digits)
    assert recipe.survey().block_density == pytest.approx(rows, abs=0.51e-3)
    tiled = Recipe(rule, grid, 512, 128, 128, (1, 8, 16), (1, 8, 16)).survey()
    assert tiled.block_density == pytest.approx(tiles, abs=0.51 * 10**-digits)
    if side < 512:  # the last three take seconds
        tiled = Recipe(rule, grid, 512, 64, 64, (1, 8, 8), (1, 8, 8)).survey()
        assert tiled.block_density == pytest.approx(small, abs=0.51 * 10**-digits)


def test_a_radius_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        Disk(0)
