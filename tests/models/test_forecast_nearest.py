"""To follow a plan's suggestion leaves no padding and, for windows, no checks; plans also warn."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusers_ext as dx


def follow(found, method, **size):
    """The forecast of what `nearest` suggests."""
    method = replace(method, **{k: value for k, value in found.nearest.items() if hasattr(method, k)})
    if size:  # of a preset
        return dx.plan(size.pop("name"), method, **size | {k: found.nearest[k] for k in size})
    return dx.plan(dx.Grid(*found.nearest["grid"], found.nearest.get("text", 0)), method)


@st.composite
def windows(draw):
    """A grid, with text or without, and a window that fits it."""
    grid = draw(st.sampled_from([1, 1, 2, 5])), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    dilation = [draw(st.integers(1, max(1, n // 2))) if draw(st.booleans()) else 1 for n in grid]
    window = [draw(st.integers(min(2, n), n // d)) for n, d in zip(grid, dilation, strict=True)]
    stride = [draw(st.integers(1, w)) for w in window]
    return dx.Grid(*grid, draw(st.sampled_from([0, 0, 7, 333]))), dx.GNA(window, stride, dilation)


@settings(max_examples=25, deadline=None)
@given(windows())
def test_following_the_nearest_window_leaves_neither_padding_nor_checks(case):
    grid, gna = case
    better = follow(dx.plan(grid, gna), gna)
    assert better.padded_tokens == 0 and better.full_share == 1.0


@pytest.mark.parametrize(
    "grid, gna",
    [
        (dx.Grid(1, 42, 42), dx.GNA((21, 21), dilation=(2, 2))),
        (dx.Grid(1, 64, 64), dx.GNA((24, 24), dilation=(2, 2))),
        (dx.Grid(1, 64, 64, text=333), dx.GNA((24, 24), (8, 8))),
        (dx.Grid(1, 1, 12, text=333), dx.GNA((1, 2))),  # where the advice leads, other tiles are faster
    ],
)
def test_nearest_of_dilated_windows_and_of_text(grid, gna):
    found = dx.plan(grid, gna)
    better = follow(found, gna)
    assert (better.padded_tokens, better.full_share) == (0, 1.0)
    assert better.text == (384 if grid.text else 0)
    assert better.nearest == {name: value for name, value in found.nearest.items() if name != "dilation"}


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([
        dx.CLEAR(8), dx.CLEAR(3, downsample=4), dx.CLEAR(5, downsample=6), dx.Radial(), dx.Radial(block=48),
        dx.Radial(reduce="block"), dx.RectifiedSparse(), dx.RectifiedSparse(block=32),
    ]),
    st.integers(1, 7), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, 5, 77, 333]),
)  # fmt: skip
def test_following_the_nearest_size_leaves_no_padding(method, t, h, w, text):
    edge = getattr(method, "downsample", 0) or 3
    t = {"clear": 1, "radial": t + 1}.get(method.name, t)
    better = follow(dx.plan(dx.Grid(t, edge * h, edge * w, text), method), method)
    assert better.padded_tokens == 0
    if method.name == "rectified" or getattr(method, "reduce", "") == "block":
        assert better.full_share == 1.0


def test_sizes_of_a_preset_can_be_followed():
    found = dx.plan("sd3.5", dx.GNA((24, 24), (8, 8)), height=1008, width=1008)
    assert found.nearest["text"] == 384 and found.nearest["height"] == 1024
    better = follow(found, dx.GNA((24, 24), (8, 8)), name="sd3.5", height=0, width=0, text=0)
    assert (better.padded_tokens, better.full_share) == (0, 1.0)


def test_a_u_net_gets_no_advice_that_its_coarser_levels_refuse():
    """Tiles of 8 x 16 leave a window of 16 columns, where the middle has 8."""
    assert set(dx.plan("shapes-sd", dx.GNA((4, 4))).nearest) == {"grid", "height", "width"}
    assert "window" in dx.plan("shapes-sd", dx.GNA((4, 4)), height=512, width=512).nearest


def test_no_advice_if_nothing_is_close():
    """Pooled tokens of cells of 60 x 60 fill blocks of 1001 on no grid that kernels address."""
    tile = ((1, 7, 143),) * 2
    found = dx.plan(dx.Grid(1, 60, 60), dx.CLEAR(8, downsample=60), tile=tile)
    assert found.nearest == {} and "nearest" not in str(found)


def test_much_padding_is_noted_with_the_nearest_size():
    found = dx.plan("wan2.1", "gna", height=480, width=832)
    words = "padding adds 20% to the tokens, the nearest size without is grid (20, 32, 48), height 512"
    assert words in found.note and found.padded_tokens / found.tokens > 0.2
    assert "padding" not in dx.plan("wan2.1", "gna").note


@pytest.mark.parametrize("grid, method", [
    (dx.Grid(1, 2, 2600), dx.CLEAR(8)),
    (dx.Grid(600, 2, 2), dx.Radial()),
    (dx.Grid(600, 4, 4), dx.RectifiedSparse()),
])  # fmt: skip
def test_grids_that_no_session_takes_are_noted(grid, method):
    found = dx.plan(grid, method)
    words = f"tokens (t, h, w), got {' x '.join(map(str, grid.shape))}; choose a smaller size"
    assert (
        found.note.count("no session takes this grid: A plan addresses grids of 1 to 512 x 2048 x 2048") == 1
    )
    assert words in found.note
    near = dx.Grid(*found.nearest["grid"])
    assert "no session" not in dx.plan(near, method).note
