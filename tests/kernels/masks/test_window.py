"""Windows of generalized neighborhood attention: the published vectors, the simulator's table, borders."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.masks.window import Window, window_start
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from .. import oracles
from . import seen

# length, window, stride, first keys of queries 0, 1, ...
VECTORS = [
    (8, 3, 1, [0, 0, 1, 2, 3, 4, 5, 5]),
    (8, 4, 1, [0, 0, 0, 1, 2, 3, 4, 4]),
    (8, 4, 2, [0, 0, 1, 1, 3, 3, 4, 4]),
    (10, 4, 4, [0, 0, 0, 0, 4, 4, 4, 4, 6, 6]),
    (8, 3, 2, [0, 0, 2, 2, 4, 4, 5, 5]),
    (30, 18, 16, [0] * 16 + [12] * 14),
    (48, 24, 8, [0] * 16 + [8] * 8 + [16] * 8 + [24] * 16),
    (80, 24, 8, [0] * 16 + [a for a in range(8, 56, 8) for _ in range(8)] + [56] * 16),
]


@pytest.mark.parametrize("length, window, stride, starts", VECTORS)
def test_windows_of_one_axis(length, window, stride, starts):
    assert window_start(torch.arange(length), length, window, stride).tolist() == starts


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_windows_against_the_clamped_centre(data):
    length = data.draw(st.integers(1, 40))
    dilation = data.draw(st.integers(1, max(1, length // 2)))
    window = data.draw(st.integers(1, length // dilation))
    stride = data.draw(st.integers(1, window))
    start = window_start(torch.arange(length), length, window, stride, dilation).tolist()
    for i, a in enumerate(start):
        keys = {(a + n) * dilation + i % dilation for n in range(window)}
        assert keys == oracles.window_of(i, length, window, stride, dilation)
        assert max(keys) < length


# grid, window, stride, tile, token density, block density, FULL share, ideal speed-up
TABLE = [
    ((1, 256, 256), (1, 80, 80), (1, 1, 1), (1, 16, 8), 0.0977, 0.1331, 0.495, 7.5),
    ((1, 256, 256), (1, 80, 80), (1, 8, 8), (1, 16, 8), 0.0977, 0.1331, 0.495, 7.5),
    ((1, 256, 256), (1, 80, 80), (1, 16, 8), (1, 16, 8), 0.0977, 0.1044, 0.87, 9.6),
    ((1, 256, 256), (1, 80, 80), (1, 16, 16), (1, 16, 8), 0.0977, 0.0977, 1.0, 10.24),
    ((30, 48, 80), (18, 24, 24), (1, 1, 1), (2, 8, 8), 0.0900, 0.1838, 0.166, 5.4),
    ((30, 48, 80), (18, 24, 24), (16, 8, 8), (2, 8, 8), 0.0900, 0.0900, 1.0, 11.1),
    ((30, 48, 80), (18, 24, 24), (2, 8, 8), (2, 8, 8), 0.0900, 0.0900, 1.0, 11.1),
    ((1, 1, 32768), (1, 1, 2048), (1, 1, 1), (1, 1, 128), 0.0625, 0.0662, 0.89, 15.1),
    ((1, 1, 32768), (1, 1, 2048), (1, 1, 256), (1, 1, 128), 0.0625, 0.0625, 1.0, 16.0),
    ((1, 1, 32768), (1, 1, 2048), (1, 1, 2048), (1, 1, 128), 0.0625, 0.0625, 1.0, 16.0),
    ((1, 64, 64), (1, 32, 32), (1, 16, 8), (1, 16, 8), 0.25, 0.352, 0.47, 2.84),
    ((33, 45, 80), (18, 24, 24), (2, 8, 8), (2, 8, 8), 0.0873, 0.0911, 0.75, 9.1),
    ((21, 45, 80), (14, 24, 24), (2, 8, 8), (2, 8, 8), 0.1067, 0.1116, 0.72, 7.2),
]


@pytest.mark.parametrize("grid, window, stride, tile, tokens, blocks, full, speed", TABLE)
def test_the_table_of_the_simulator(grid, window, stride, tile, tokens, blocks, full, speed):
    spec = RulePlanSpec(Window(grid, window, stride), grid, q_tile=tile, k_tile=tile, pad=True)
    count = grid[0] * grid[1] * grid[2]
    stats = spec.stats
    assert spec.pairs / count**2 == pytest.approx(tokens, abs=0.51e-4)
    assert stats.block_density == pytest.approx(blocks, abs=0.51 * 10 ** -(3 if blocks > 0.3 else 4))
    assert stats.full_share == pytest.approx(full, abs=0.51e-2)
    assert count**2 / stats.work == pytest.approx(speed, abs=0.051)


def test_a_tile_of_four_frames_pads_thirty_to_thirty_two():
    grid, window = (30, 48, 80), (18, 24, 24)
    spec = RulePlanSpec(Window(grid, window, (16, 8, 8)), grid, 0, 256, 128, (4, 8, 8), (2, 8, 8), pad=True)
    assert (30 * 48 * 80) ** 2 / spec.stats.work == pytest.approx(10.4, abs=0.051)


def test_the_mask_depends_on_the_stride_group_only():
    mask = seen(Window((1, 6, 9), (1, 4, 5), (1, 2, 3)), (1, 6, 9))
    rows = mask.view(6, 9, -1)
    assert torch.equal(rows[0::2], rows[1::2])
    assert torch.equal(rows[:, 0::3], rows[:, 2::3])
    assert not torch.equal(rows[1], rows[2]) and not torch.equal(rows[:, 2], rows[:, 3])
    assert bool((mask.sum(1) == 20).all())


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(window=(1, 9, 4)), "9 x 1 on axis h of 8 tokens; the largest window there is 8"),
        (
            dict(window=(1, 8, 4), dilation=(1, 2, 1)),
            "8 x 2 on axis h of 8 tokens; the largest window there is 4",
        ),
        (dict(stride=(1, 5, 1)), "stride 5 and window 4 on axis h"),
        (dict(stride=(1, 0, 1)), "at least 1, got window 4, stride 0"),
        (dict(window=(1, 1, 4)), "at least 2 tokens"),
        (dict(window=(2, 4, 4)), "2 x 1 on axis t of 1 tokens"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(ValueError, match=words):
        Window(**dict(grid=(1, 8, 8), window=(1, 4, 4)) | change)
