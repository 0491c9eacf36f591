"""GNA on complete pipelines: explicit masks, dense and blocked limits, the settings it suggests."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import diffusers_ext as dx

from ..hosts import every_attention, host
from ..kernels import oracles
from .masked import by_mask
from .promises import hides_nothing, is_refused, makes_the_pictures_of


@every_attention
def test_equal_to_an_explicit_mask(host):
    window, stride = ((2, 2, 2), (2, 1, 1)) if host.video else ((1, 2, 2), (1, 1, 2))
    oracle = by_mask(lambda grid: oracles.box(grid, window, stride))
    method = dx.GNA(window, stride, dense_steps=0, backend="reference")
    makes_the_pictures_of(oracle, method, host, cfg=True, prompts=2)


@pytest.mark.parametrize("frames, height, width", [(1, 16, 48), (5, 32, 16), (13, 16, 16), (9, 48, 16)])
def test_awkward_videos(frames, height, width):
    tiny = replace(host("wan"), size=dict(num_frames=frames, height=height, width=width))
    window = (min(3, (frames + 1) // 2), 3, 2)
    oracle = by_mask(lambda grid: oracles.box(grid, window, (1, 2, 1)))
    method = dx.GNA(window, (1, 2, 1), dense_steps=0, backend="reference")
    makes_the_pictures_of(oracle, method, tiny, steps=2)


@pytest.mark.parametrize("name, window", [("sd3", (8, 12)), ("flux", (8, 12)), ("wan", (3, 8, 8))])
def test_a_window_of_the_grid_is_the_plain_model_bit_for_bit(name, window):
    hides_nothing(dx.GNA(window, dense_steps=0, backend="reference"), host(name))


def test_two_numbers_are_rows_and_columns():
    assert dx.GNA(window=(4, 6)) == dx.GNA(window=(1, 4, 6))
    assert dx.GNA(window=[4, 6], stride=[2, 2]) == dx.GNA(window=(1, 4, 6), stride=(1, 2, 2))


@pytest.mark.parametrize(
    "grid, tile, window, nearest",
    [
        (
            (1, 256, 256),
            (1, 16, 8),
            (80, 80),
            dict(grid=(1, 256, 256), window=(1, 80, 80), stride=(1, 16, 8)),
        ),
        (
            (30, 48, 80),
            (2, 8, 8),
            (18, 24, 24),
            dict(grid=(30, 48, 80), window=(18, 24, 24), stride=(2, 8, 8)),
        ),
        ((1, 64, 64), (1, 16, 8), (32, 32), dict(grid=(1, 64, 64), window=(1, 16, 24), stride=(1, 16, 8))),
    ],
)
def test_suggestions_are_free_of_partial_blocks(grid, tile, window, nearest):
    got = dx.GNA(window=window).nearest(grid, (tile, tile))
    better = dx.GNA(window=got["window"], stride=got["stride"]).plan_spec(got["grid"], tile=(tile, tile))
    stats = better.stats
    assert stats.full == stats.visited
    assert stats.block_density == better.pairs / (grid[0] * grid[1] * grid[2]) ** 2
    assert got["grid"] == nearest["grid"]


def test_suggestions_keep_a_dilation_only_where_tiles_have_no_depth():
    """Two groups of tokens are in one tile of two, which a window of one group would leave PARTIAL."""
    gna, grid = dx.GNA((4, 24, 24), (2, 1, 1), (3, 2, 2)), (16, 64, 64)
    for tile, dilation in (((1, 8, 16), (3, 1, 1)), ((2, 8, 8), (1, 1, 1))):
        got = gna.nearest(grid, (tile, tile))
        assert got.pop("dilation") == dilation and got.pop("grid") == grid
        stats = dx.GNA(dilation=dilation, **got).plan_spec(grid, tile=(tile, tile)).stats
        assert stats.full == stats.visited
    assert "dilation" not in dx.GNA((4, 24, 24)).nearest((16, 64, 64), ((2, 8, 8),) * 2)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(), r"needs a window.* as in window=\[0\.4, 0\.4\]"),
        (dict(window=(4,)), "three numbers"),
        (
            dict(window=8),
            r"GNA window takes a list of .*, got 8: size of the window.*\[3, 3\]\.",
        ),
        (
            dict(window=(4, 4.5)),
            r"a share of an axis above 0.0 and not above 1.0, got 4.5 on axis w; write 24",
        ),
        (dict(window=(0.3, 0.3), stride=(0.0, 0.1)), r"GNA stride is .* got 0.0 on axis h"),
        (dict(window=(0.2, 0.2), stride=(0.3, 0.1)), r"stride 0.3 and window 0.2 on axis h"),
        (dict(window=(4, 4), stride=(5, 1)), "stride 5 and window 4 on axis h"),
        (dict(window=(4, 4), stride=(0, 1)), "stride 0"),
        (dict(window=(4, 4), dilation=(2, 1), reduce="block"), "leave the dilation at 1, or use"),
        (dict(window=(4, 4), dilation=(0, 1)), "dilation must be 1 or more, got 0 on axis h"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.GNA(**settings)


@pytest.mark.parametrize(
    "grid, window, stride, tokens",
    [
        ((1, 256, 256), (0.3125, 0.3125), (0.0625, 0.0625), ((1, 80, 80), (1, 16, 16))),  # published
        ((1, 64, 64), (0.3125, 0.3125), (0.0625, 0.0625), ((1, 24, 24), (1, 8, 8))),
        ((1, 48, 200), (0.3125, 0.3125), (0.0625, 0.0625), ((1, 24, 80), (1, 8, 16))),
        ((30, 48, 80), (0.54, 0.5, 0.3), (2, 8, 8), ((18, 24, 24), (2, 8, 8))),  # published
        ((33, 45, 80), (0.54, 0.5, 0.3), (2, 8, 8), ((18, 24, 24), (2, 8, 8))),
        ((5, 3, 90), (0.3, 1.0, 0.1), (2, 8, 1), ((2, 3, 9), (2, 3, 1))),
        ((1, 2, 2), (0.5, 0.5), (1, 0.5), ((1, 2, 2), (1, 1, 2))),
        ((1, 9, 9), (5, 0.5), (0.5, 1), ((1, 5, 5), (1, 8, 1))),
    ],
)
def test_shares_grow_with_the_grid(grid, window, stride, tokens):
    method = dx.GNA(window, stride)
    assert method.sizes(grid) == tokens
    if all(s <= w for s, w in zip(tokens[1], tokens[0], strict=True)):
        assert method.rule(grid) == dx.GNA(*tokens).rule(grid)
        assert method.plan_spec(grid) == dx.GNA(*tokens).plan_spec(grid)
    else:
        with pytest.raises(dx.MethodError, match="stride 8 and window 5 on axis h"):
            method.rule(grid)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("stride", [1, 3, 0.1, 1.0])
def test_any_share_fits_any_grid(share, stride):
    """A share of 1.0 hides nothing."""
    for length in (1, 2, 3, 7, 8, 9, 45, 64):
        if isinstance(stride, int) or stride <= share:
            rule = dx.GNA((share, share), (stride, stride)).rule((1, length, length))
            assert share < 1 or rule.window == (1, length, length)


@pytest.mark.parametrize("window", [np.array([8, 8]), range(8, 10)])
def test_windows_of_any_sequence(window):
    assert dx.GNA(window=window) == dx.GNA(window=[int(n) for n in window])


@pytest.mark.parametrize("stride, density", [((2, 8, 8), 0.125), ((1, 1, 1), 0.406)])
def test_kept_tiles_are_sliding_tile_attention_if_windows_move_by_a_tile(stride, density):
    """A window of one tile is that tile alone; token by token it moves over its neighbours."""
    grid, tile = (4, 16, 16), (2, 8, 8)
    method = dx.GNA(tile, stride, reduce="block")
    assert dx.plan(dx.Grid(*grid), method).token_density == pytest.approx(density, abs=0.51e-3)
    alone = torch.equal(method.plan_spec(grid).bitmap(), torch.eye(8, dtype=torch.bool))
    assert alone == (density == 0.125)


def test_a_window_larger_than_the_grid_is_refused_and_the_model_left_as_it_was():
    words = "axis h of 8 tokens; the largest window there is 8"
    is_refused(dx.GNA(window=(9, 2), dense_steps=0), host("sd3"), words, dx.MethodError)
