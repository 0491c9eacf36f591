"""Plans whose rule is computed from the first token of each block: the same as the reference."""

from dataclasses import replace

import pytest
import torch

from bench.timing.forms import CHANGES, changed
from diffusers_ext.kernels.block_sparse import api, reference
from diffusers_ext.kernels.block_sparse.launch import LaunchArgs
from diffusers_ext.kernels.block_sparse.launch_config import Tiles
from diffusers_ext.kernels.block_sparse.triton_forward import forward
from diffusers_ext.kernels.geometry import pack
from diffusers_ext.kernels.masks.band import NEVER, Band
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.spec import RulePlanSpec

HALF, SINGLE = torch.float16, torch.float32
TOLERANCE = {HALF: 2e-3, SINGLE: 1e-5}  # for inputs N(0, 1)
TILES = dict(q_tile=(1, 4, 4), k_tile=(1, 4, 4), pad=True, text_rows=False)
DEEP = TILES | dict(k_tile=(2, 4, 4))
DEEPER = DEEP | dict(q_tile=(2, 4, 4))


def spec(rule, grid, text=0, block_q=16, block_k=16, **rest):
    return RulePlanSpec(rule, grid, text, block_q, block_k, **rest)


REGULAR = {
    "disk": spec(Disk(3), (1, 9, 10), **TILES),
    "disk, text in whole blocks": spec(Disk(4), (1, 7, 9), 32, **TILES),
    "disk, deep tiles": spec(Disk(2), (2, 5, 5), 0, 16, 32, **DEEP),
    "window": spec(Window((3, 6, 7), (2, 3, 4)), (3, 6, 7), **TILES),
    "window, strides": spec(Window((1, 9, 10), (1, 4, 5), (1, 2, 3)), (1, 9, 10), **TILES),
    "window, dilation": spec(Window((4, 4, 9), (2, 3, 3), (1, 1, 1), (2, 1, 3)), (4, 4, 9), **TILES),
    "window, deep tiles": spec(Window((5, 6, 7), (3, 3, 4)), (5, 6, 7), 0, 32, 32, **DEEPER),
    "window, raster": spec(Window((1, 6, 16), (1, 3, 5)), (1, 6, 16), 0, 32, 16),
    "band": spec(Band((20, 7, NEVER), 8, 1), (3, 4, 8), text_rows=False),
}
IRREGULAR = {
    "disk, text and pooled tokens": spec(Disk(3), (1, 5, 7), 5, **TILES, extra_keys=6),
    "window, text": spec(Window((1, 6, 7), (1, 3, 3)), (1, 6, 7), 21, **TILES),
    "band across frames": spec(Band((20, 9, 0, 4), 5, 1), (4, 4, 5), text_rows=False),
    "band, text": spec(Band((15, NEVER, 6), 6), (3, 3, 6), 19, text_rows=False),
    "band, text first": spec(Band((9, 4), 6), (2, 3, 6), 16, text_rows=False, text_first=True),
    "whole tiles": spec(Window((1, 8, 8), (1, 4, 4)), (1, 8, 8), 5, **TILES, snap=True),
}


def tensors(plan, D, dtype=SINGLE, B=1, H=1):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(B, plan.s_q, H, D, generator=g)
    k, v = torch.randn(2, B, plan.s_kv, H, D, generator=g)
    return [x.to(dtype) for x in (q, k, v)]


def check(plan, D=32, dtype=SINGLE, scale=None, B=1, H=1, run=api.attention):
    q, k, v = tensors(plan, D, dtype, B, H)
    out, lse = run(q, k, v, plan, scale, with_lse=True)
    want, want_lse = reference.attention(*(x.double() for x in (q, k, v)), plan, scale)
    real = plan.q_coord >= 0  # padded queries hold anything
    assert out.dtype == dtype and not out.isnan().any()
    assert (out - want)[:, real].abs().max() < TOLERANCE[dtype]
    assert (lse - want_lse)[:, :, real].abs().max() < 1e-5


@pytest.mark.parametrize("name", REGULAR)
def test_blocks_that_are_boxes(name):
    plan = REGULAR[name].build()
    assert plan.form.computed and not plan.form.looked_up and plan.full_share < 1
    check(plan)


@pytest.mark.parametrize("name", IRREGULAR)
def test_blocks_with_text_and_runs_across_frames(name):
    plan = IRREGULAR[name].build()
    assert plan.form.looked_up and plan.form.computed == (name != "whole tiles")
    check(plan)


@pytest.mark.parametrize(
    "D, name", [(40, "disk, text and pooled tokens"), (64, "whole tiles"), (128, "band, text")]
)
def test_head_sizes_and_heads_in_half_precision(D, name):
    check(IRREGULAR[name].build(), D, HALF, H=2)


@pytest.mark.parametrize("name", ["disk, text and pooled tokens", "band, text"])
def test_hidden_text(name):
    plan = replace(IRREGULAR[name], masked_text=True).build()
    seen = torch.ones(2, plan.s_kv, dtype=torch.bool)
    first = plan.s_kv - IRREGULAR[name].text - IRREGULAR[name].extra_keys
    seen[0, first + 2 : first + 5] = seen[1, first : first + 5] = False
    check(plan.hiding(seen), B=2)


def test_rows_that_see_no_key_are_0():
    plan = REGULAR["disk"].build()
    assert plan.full_share == 0
    away = torch.where(
        plan.q_coord < 0, plan.q_coord, plan.q_coord + int(pack(*map(torch.tensor, (0, 99, 0))))
    )
    out, lse = api.attention(*tensors(plan, 16), replace(plan, q_coord=away), with_lse=True)
    assert not out.any() and (lse == -torch.inf).all()


def test_what_is_no_number_stays_so():
    plan = IRREGULAR["band across frames"].build()
    q, k, v = tensors(plan, 16)
    q[:, 3] = torch.nan
    out, _ = api.attention(q, k, v, plan)
    assert out[:, 3].isnan().all() and not out[:, 4:].isnan().any()


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_scales_that_are_not_above_0(scale):
    check(IRREGULAR["band across frames"].build(), scale=scale)


@pytest.mark.parametrize(
    "plan, shift, changes",
    [
        (REGULAR["disk"], (500, 2030, 2030), {}),
        (spec(Band((9,), 16), (1, 3, 16)), (0, 2000, 0), {"params": (2000, 0)}),
    ],
    ids=["disk", "band"],
)
def test_large_coordinates(plan, shift, changes):
    """Numbers that are not exact in float32 would move the border of a rule."""
    plan = plan.build()
    add = int(pack(*map(torch.tensor, shift)))
    q_coord, k_coord = (torch.where(x < 0, x, x + add) for x in (plan.q_coord, plan.k_coord))
    sides = tuple(n + more for n, more in zip(plan.form.grid_sides, shift[1:], strict=True))
    sides = (2047, 2000) if changes else sides
    form = replace(plan.form, grid_sides=sides)
    check(replace(plan, q_coord=q_coord, k_coord=k_coord, form=form, **changes))


@pytest.mark.parametrize(
    "name, special", [("window, text", False), ("band, text", False), ("whole tiles", True)]
)
def test_descriptors(name, special):
    plan = IRREGULAR[name].build()
    tiles = Tiles(16, 16, 32, 4, 2, tma=True, special=special)

    def run(q, k, v, plan, scale, with_lse):
        lists = plan.row_ptr, plan.col, plan.order, (plan.block_q, plan.block_k), plan.kind.name.lower()
        launch = LaunchArgs(*lists, plan.params, plan.q_coord, plan.k_coord, plan.table, plan.form)
        return forward(q, k, v, launch, scale=0.2, with_lse=with_lse, tiles=tiles)

    check(plan, dtype=HALF, scale=0.2, run=run)


@pytest.mark.parametrize("name", CHANGES)
def test_launch_settings_that_are_timed(name):
    plan = (REGULAR["disk"] if CHANGES[name].rule == "disk" else IRREGULAR["whole tiles"]).build()

    def run(q, k, v, plan, scale, with_lse):
        out = changed(CHANGES[name], q, k, v, plan)
        return out, reference.attention(q, k, v, plan, scale)[1]

    check(plan, run=run)
