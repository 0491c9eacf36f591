"""The shape doctor: published densities, sizes of presets and of every family, plans that equal what runs."""

import inspect
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import Layout
from diffusers_ext.kernels.block_sparse.capabilities import Choice
from diffusers_ext.models.presets import find
from diffusers_ext.models.sizes import Tokens
from diffusers_ext.processors.sparse.placement import place

from ..hosts import built, every_call, host

FIELDS = {"tokens", "token_density", "block_density", "full_share", "padded_tokens", "predicted_speedup"}
FIELDS |= {"memory_bytes", "nearest", "expected_speedup", "device"}


@pytest.mark.parametrize(
    "side, radius, tile, density, speed",
    [
        (64, 8, ((1, 8, 16), (1, 8, 16)), 0.380, 2.6),
        (64, 8, ((1, 2, 64), (1, 2, 64)), 0.417, 2.4),
        (64, 16, ((1, 8, 8), (1, 8, 8)), 0.433, 2.3),
        (128, 8, ((1, 8, 16), (1, 8, 16)), 0.118, 8.5),
        (128, 8, None, 0.099, 10.1),
        (128, 16, ((1, 1, 128), (1, 1, 128)), 0.274, 3.7),
        (256, 32, ((1, 8, 16), (1, 8, 16)), 0.0899, 11.1),
        (256, 32, None, 0.0899, 11.1),
    ],
)
def test_clear_on_flux(side, radius, tile, density, speed):
    found = dx.plan(dx.Grid(1, side, side, text=512), dx.CLEAR(radius=radius), tile=tile)
    assert found.block_density == pytest.approx(density, abs=0.51e-3)
    assert found.predicted_speedup == pytest.approx(speed, abs=0.051)
    assert found.tokens == side**2 + 512 and found.padded_tokens == 0


@pytest.mark.parametrize(
    "grid, window, stride, full, speed",
    [
        ((1, 256, 256), (80, 80), (1, 16, 16), 1.0, 10.24),
        ((30, 48, 80), (18, 24, 24), (1, 1, 1), 0.166, 5.4),
        ((30, 48, 80), (18, 24, 24), (2, 8, 8), 1.0, 11.1),
        ((33, 45, 80), (18, 24, 24), (2, 8, 8), 0.75, 9.1),
        ((21, 45, 80), (14, 24, 24), (2, 8, 8), 0.72, 7.2),
    ],
)
def test_windows_on_images_and_videos(grid, window, stride, full, speed):
    tile = (1, 16, 8) if grid[0] == 1 else (2, 8, 8)
    found = dx.plan(dx.Grid(*grid), dx.GNA(window, stride), tile=(tile, tile))
    assert found.full_share == pytest.approx(full, abs=0.51e-2)
    assert found.predicted_speedup == pytest.approx(speed, abs=0.051)
    padded = math.prod(-(-n // edge) * edge for n, edge in zip(grid, tile, strict=True))
    assert found.padded_tokens == padded - math.prod(grid)


def test_different_tiles_for_queries_and_keys():
    grid, gna = dx.Grid(30, 48, 80), dx.GNA((18, 24, 24), (16, 8, 8))
    assert dx.plan(grid, gna, tile=((4, 8, 8), (2, 8, 8))).predicted_speedup == pytest.approx(10.4, abs=0.051)


def test_radial_on_presets():
    radial = dx.Radial(decay=0.95, sink_frames=0, reduce="block")
    found = dx.plan("hunyuan-video", radial, height=768, num_frames=117, text=0)
    assert found.grid == (30, 48, 80) and found.tokens == 115_200
    assert (round(found.token_density, 4), round(found.block_density, 4)) == (0.2746, 0.2746)
    assert found.predicted_speedup == pytest.approx(3.64, abs=0.51e-2)
    band = dx.plan("hunyuan-video", replace(radial, reduce="token"), height=768, num_frames=117, text=0)
    assert round(band.token_density, 4) == 0.2593
    odd = dx.plan("wan2.1", dx.Radial(decay=0.2))
    assert odd.grid == (21, 45, 80)
    assert odd.nearest == {"grid": (21, 48, 80), "height": 768, "width": 1280, "num_frames": 81}


@pytest.mark.parametrize("name, grid, text", [
    ("flux", (1, 64, 64), 512),
    ("SD3.5", (1, 64, 64), 333),
    ("hunyuan-video", (33, 45, 80), 256),
    ("wan2.2", (21, 45, 80), 0),
    ("mochi", (28, 30, 53), 256),
])  # fmt: skip
def test_presets(name, grid, text):
    method = dx.CLEAR() if grid[0] == 1 else dx.Radial()
    found = dx.plan(name, method)
    assert (found.grid, found.text) == (grid, text)
    tokens = find(name).tokens
    assert tokens.grid(tokens.size(grid)).shape == grid


@every_call
def test_the_grid_of_a_pipeline_is_the_one_that_runs(host):
    pipe = host.build()
    method = dx.GNA((2, 2, 2) if host.video else (2, 2), dense_steps=0, backend="reference")
    wanted = dx.plan(pipe, method, **host.size)
    with dx.apply(pipe, method) as session:
        host.run(pipe, steps=host.least_steps)
        seen = [(placed.grid, placed.text) for placed in session.run.plans.values()]
    # The rest of the text, such as that of CLIP in SD3, does not change with what can be chosen.
    usual = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
    text = wanted.text and wanted.text - usual.default + host.extra["max_sequence_length"]
    assert (wanted.grid, text) in seen
    found = dx.plan(pipe, method, **host.size, text=text)
    assert found.tokens == math.prod(found.grid) + text


@pytest.mark.parametrize(
    "method, words",
    [
        (dx.CLEAR(downsample=4), "needs rows and columns that 4 divides, got 8 x 10 tokens"),
        (dx.GNA((9, 9), dense_steps=0), "must fit into the grid, got 9 x 1 on axis h of 8 tokens"),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_every_level_of_a_u_net_is_checked_as_in_a_session(method, words):
    """The finest attention has 16 x 20 tokens, which both methods take, the middle 8 x 10."""
    tiny = replace(host("sd"), size=dict(height=32, width=40))
    pipe = tiny.build()
    with pytest.raises(dx.MethodError, match=words), dx.apply(pipe, method):
        tiny.run(pipe, steps=1)
    with pytest.raises(dx.MethodError, match=words):
        dx.plan(pipe, method, **tiny.size)
    above = replace(method, dense_layers=2)  # leaves the last block alone
    assert dx.plan(pipe, above, **tiny.size).grid == (1, 16, 20)
    with dx.apply(pipe, above):
        tiny.run(pipe, steps=1)


def test_sizes_that_fit_every_level_are_named():
    with pytest.raises(dx.UnsupportedError, match=r"\(32 x 32 and 32 x 48 px\)\.$"):
        dx.plan(host("sd").build(), dx.CLEAR(downsample=4), height=32, width=40)
    with pytest.raises(dx.UnsupportedError, match="got 8 x 10 tokens"):
        dx.plan("shapes-sd", dx.CLEAR(downsample=4), height=64, width=80)


def test_levels_of_odd_grids_are_rounded_up_as_in_the_model():
    tokens = Tokens(edge_px=8, frames=0, text=0, height=1024, width=1024, levels=(1, 2))
    grids = tokens.grids({"height": 1000, "width": 1016})
    assert {level: grid.shape for level, grid in grids.items()} == {1: (1, 63, 64), 2: (1, 32, 32)}
    assert tokens.grid({}).shape == (1, 64, 64) and tokens.size((1, 64, 64))["height"] == 1024


@pytest.mark.parametrize(
    "size, words",
    [
        (
            {"width": 1288},
            "width that is a multiple of 16 px up to 16384, got 1288; the nearest are 1280 and 1296",
        ),
        (
            {"num_frames": 2},
            "num_frames that is 1 more than a multiple of 4 up to 4093, got 2; the nearest are 1 and 5",
        ),
    ],
)
def test_sizes_between_tokens_are_refused_with_the_nearest(size, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.plan("wan2.1", dx.Radial(), **size)


def test_the_forecast_is_what_the_session_reports():
    tiny, pipe = built("wan")
    gna = dx.GNA((2, 4, 4), (1, 2, 2), dense_steps=0, backend="reference")
    found = dx.plan(pipe, gna, **tiny.size)
    with dx.apply(pipe, gna) as session:
        tiny.run(pipe, steps=1)
    assert {(s.density, s.full_share) for s in session.report().sites} == {
        (found.token_density, found.full_share)
    }


def test_rectified_counts_what_is_kept_at_least():
    """118 of 591 blocks, all rows alike; the data, and here the neighbours, may add to that."""
    fixed = dx.plan("wan2.1", dx.RectifiedSparse(keep=0.2, p_remaining=None, touching=False))
    assert fixed.block_density == 118 / 591 and fixed.padded_tokens == 591 * 128 - 75_600
    assert fixed.note.startswith("the least that runs") and "11 MiB a head" in fixed.note
    assert "text" not in fixed.note
    joint = dx.plan(
        dx.Grid(21, 45, 80, 256), replace(dx.preset("hunyuan-video", "rectified"), touching=False)
    )
    assert "the text counts as one block of those that a row keeps" in joint.note
    near = dx.plan("wan2.1", dx.RectifiedSparse(keep=None, p_remaining=0.3))
    assert 20 / 591 < near.block_density < 27 / 591
    assert "hides" not in near.note and near.nearest["grid"] == (20, 48, 80)


@pytest.mark.parametrize("text", [0, 100, 256])
@pytest.mark.parametrize("grid, method", [
    ((1, 48, 64), dx.CLEAR(8)),
    ((1, 50, 70), dx.CLEAR(8)),
    ((1, 48, 64), dx.CLEAR(8, downsample=4)),
    ((1, 4, 256), dx.CLEAR(8)),
    ((4, 24, 40), dx.GNA((2, 8, 8), (2, 8, 8))),
    ((5, 30, 45), dx.GNA((3, 9, 9))),
    ((7, 15, 24), dx.Radial()),
    ((7, 15, 24), dx.Radial(reduce="block")),
    ((4, 24, 40), dx.RectifiedSparse()),
    ((5, 30, 45), dx.RectifiedSparse(block=64)),
])  # fmt: skip
def test_memory_is_that_of_the_tensors_that_a_session_keeps(grid, method, text):
    tokens = math.prod(grid)
    method = replace(method, backend="reference")
    layout = Layout(grid, slice(tokens, tokens + text), slice(0, tokens))
    spec = method.plan_spec(grid, text, text_rows=False)
    placed = place(spec, Choice("reference", "asked for"), layout, torch.device("cpu"))
    order = getattr(placed.order, "tokens", None)
    tensors = [placed.queries, placed.keys, placed.inverse] + ([order] if order is not None else [])
    if method.name != "rectified":  # there lists, and hence the order of rows, change with every call
        tensors.append(placed.plan.order)
    kept = placed.plan.bytes + sum(x.nbytes for x in tensors)
    assert dx.plan(dx.Grid(*grid, text), method).memory_bytes == kept


def test_every_field_is_there_and_readable():
    found = dx.plan(dx.Grid(1, 160, 100, text=7), dx.CLEAR(radius=4))
    assert set(found.to_dict()) >= FIELDS
    assert found.tokens == 16007 and found.memory_bytes > 0
    text = str(found)
    assert "clear on 1 x 160 x 100 grid tokens and 7 text tokens, 16007 together" in text
    assert "grid (1, 160, 96)" in text and "note" not in text
    assert "no gain expected" in str(dx.plan(dx.Grid(1, 8, 8), dx.CLEAR(radius=4)))


@pytest.mark.parametrize(
    "target, method, rest, words",
    [
        (dx.Grid(1, 8, 8), dx.SoftPAG(), {}, "takes a sparse method such as GNA"),
        ("flx", dx.CLEAR(), {}, "nearest is 'flux.1'"),
        (3, dx.CLEAR(), {}, "got int"),
        (dx.Grid(1, 8, 8), dx.CLEAR(), {"height": 64}, "a size already, got height"),
        ("flux", dx.CLEAR(), {"hight": 64}, "nearest is 'height'"),
        ("flux", dx.CLEAR(), {"num_frames": 5}, "makes images"),
        ("flux", dx.CLEAR(), {"height": 8}, "a multiple of 16 px, got 8; the nearest is 16"),
        ("wan2.1", dx.CLEAR(), {}, "Radial"),
        ("flux", dx.Radial(), {}, "CLEAR"),
        ("flux", dx.GNA((65, 8)), {}, "axis h of 64 tokens; the largest window there is 64"),
        (dx.Grid(1, 8, 8), dx.CLEAR(), {"tile": ((1, 8), (1, 8))}, "at most 1024 tokens each"),
        (dx.Grid(1, 8, 8), dx.CLEAR(), {"tile": ((1, 64, 64), (1, 8, 8))}, "at most 1024 tokens each"),
        (dx.Grid(3, 8, 8), dx.RectifiedSparse(), {"tile": ((1, 0, 8), (1, 8, 8))}, "at most 1024 tokens"),
        (dx.Grid(1, 8, 8), dx.CLEAR(), {"tile": (8, 8)}, r"in whole numbers, .* got \(8, 8\)"),
        (dx.Grid(1, 8, 8), dx.CLEAR(), {"tile": ((1, 8.0, 8), (1, 8, 8))}, "in whole numbers"),
        (dx.Grid(3, 8, 8), dx.Radial(), {"tile": ((1, 8, 8), (1, 8, 8))}, "takes no tile"),
        ("flux", dx.CLEAR(), {"height": 480.5}, r"whole numbers of px, .* got height=480.5; round it"),
        ("flux", dx.CLEAR(), {"text": "8"}, "got text='8'"),
        ("flux", dx.CLEAR(), {"height": True}, "got height=True; round it"),
    ],
)  # fmt: skip
def test_bad_input(target, method, rest, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.plan(target, method, **rest)


def test_grids_are_checked():
    with pytest.raises(dx.MethodError, match="0 or more text tokens"):
        dx.Grid(1, 8, 8, text=-1)
    with pytest.raises(dx.MethodError, match="1 or more tokens an axis"):
        dx.Grid(0, 8, 8)
    with pytest.raises(dx.MethodError, match=r"Grid h takes a whole number, got 4.5; for example h=1"):
        dx.Grid(1, 4.5, 4)
    with pytest.raises(dx.MethodError, match="Grid t takes a whole number, got True"):
        dx.Grid(True, 8, 8)


def test_whole_numbers_of_numpy_become_plain_ones():
    """Records are written as JSON, which takes none of numpy."""
    tile = ((1, 8, 16), (1, 8, 16))
    found = dx.plan("flux.1", dx.CLEAR(), height=np.int64(1024), tile=np.array(tile))
    assert json.dumps(found.to_dict()) == json.dumps(dx.plan("flux.1", dx.CLEAR(), tile=tile).to_dict())
    assert json.dumps(dx.Grid(1, np.int64(64), 64, text=np.int32(7)).shape) == "[1, 64, 64]"


SIZES = [
    *itertools.product(
        ["flux"], [(830, 470), (1000, 1000), (272, 496), (48, 2000), (1360, 768), (17, 31)], [1]
    ),
    *itertools.product(
        ["wan2.1"], [(432, 768), (480, 832), (720, 1280), (272, 496), (16, 64)], [1, 5, 9, 49, 81]
    ),
]


@pytest.mark.parametrize("name, size, frames", SIZES)
def test_awkward_sizes_have_a_plan_or_a_sentence(name, size, frames):
    """No size has to divide anything; what cannot be is said in one sentence."""
    gna = dx.GNA(window=(1, 2, 2) if frames == 1 else (2, 2, 2))
    for method in (dx.CLEAR(radius=8), gna, dx.Radial(), dx.RectifiedSparse()):
        try:
            found = dx.plan(name, method, height=size[0], width=size[1], num_frames=frames)
        except dx.MethodError as error:
            assert str(error).count(". ") == 0 and "got" in str(error)
        else:
            assert 0 < found.token_density <= 1 and found.block_density <= 1 and found.padded_tokens >= 0
