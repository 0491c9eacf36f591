"""Orders are permutations, tiles are contiguous, coordinates survive packing."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels import geometry

grids = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
tiles = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=30, deadline=None)
@given(grids, tiles)
def test_tile_major_is_a_permutation(grid, tile):
    order = geometry.tile_major(grid, tile)
    assert torch.equal(order.sort().values, geometry.raster(grid))
    assert torch.equal(order[geometry.inverse(order)], geometry.raster(grid))


@settings(max_examples=30, deadline=None)
@given(grids, tiles)
def test_padding_makes_every_run_one_tile(grid, tile):
    order = geometry.tile_major(grid, tile, pad=True)
    expected = []
    for corner in itertools.product(*(range(0, size, edge) for size, edge in zip(grid, tile, strict=True))):
        for inner in itertools.product(*map(range, tile)):
            t, h, w = (a + b for a, b in zip(corner, inner, strict=True))
            inside = t < grid[0] and h < grid[1] and w < grid[2]
            expected.append((t * grid[1] + h) * grid[2] + w if inside else -1)
    assert order.tolist() == expected
    assert torch.equal(order[geometry.inverse(order)], geometry.raster(grid))
    assert torch.equal(order[order >= 0], geometry.tile_major(grid, tile))


def test_a_tile_of_the_full_grid_is_raster():
    assert torch.equal(geometry.tile_major((2, 3, 5), (2, 3, 5)), geometry.raster((2, 3, 5)))
    assert torch.equal(geometry.tile_major((2, 3, 5), (1, 1, 4)), geometry.raster((2, 3, 5)))


def test_coordinates_of_raster_order():
    got = torch.stack(geometry.coordinates(geometry.raster((2, 3, 5)), (2, 3, 5)), 1)
    assert got.tolist() == [list(c) for c in itertools.product(range(2), range(3), range(5))]


def test_packing_keeps_the_largest_coordinates():
    corners = torch.tensor(list(itertools.product(*((0, 1, limit) for limit in geometry.LIMITS)))).T
    code = geometry.pack(*corners)
    assert code.dtype == torch.int32 and bool((code >= 0).all())
    assert torch.equal(torch.stack(geometry.unpack(code)), corners)
    assert code.unique().numel() == math.prod([3, 3, 3])


@pytest.mark.parametrize("grid", [(513, 2, 2), (1, 2049, 1), (1, 1, 4000), (0, 2, 2)])
def test_grids_beyond_the_bits_are_refused(grid):
    with pytest.raises(ValueError, match="512 x 2048 x 2048 tokens"):
        geometry.check_grid(grid)
    geometry.check_grid((512, 2048, 2048))
