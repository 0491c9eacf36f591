"""The Triton kernels on a real GPU: every mask and dtype against the reference, gradients, large offsets."""

from dataclasses import replace

import pytest
import torch

from diffusers_ext.kernels.block_sparse import api, reference
from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.form import LOOKED_UP
from diffusers_ext.kernels.plan.plan import from_mask
from diffusers_ext.kernels.plan.spec import RulePlanSpec
from tests import needs

pytestmark = needs.gpu
RATIO = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # RMS of the error over RMS


def plans(block_q=128, block_k=128):
    size = dict(text=37, block_q=block_q, block_k=block_k)
    tile = dict(q_tile=(1, 8, 8), k_tile=(1, 8, 8))
    video = (5, 13, 17)
    band = Band(release_reach(5, 221, 0.4, 16), 17, 1)
    seen = torch.rand(301, 413, generator=torch.Generator().manual_seed(0)) < 0.3
    specs = {
        "disk": RulePlanSpec(Disk(6), (1, 31, 29), **size, **tile),
        "box": RulePlanSpec(Window(video, (3, 6, 7), (1, 2, 3), (1, 2, 1)), video, **size),
        "band": RulePlanSpec(band, video, **size),
    }
    built = {name: spec.build("cuda") for name, spec in specs.items()}
    return built | {"lut": from_mask(seen, block_q, block_k).to("cuda")}


def box_plans(device="cuda"):
    """Return plans of whole tiles and of runs, whose rules are computed from the first token of a block.

    Text and the ends of the grid are looked up in some of them.
    """
    image, video = (1, 40, 61), (6, 20, 29)
    tile, cube = (1, 8, 16), (2, 8, 8)
    window = Window(video, (4, 8, 9), (1, 2, 3), (1, 2, 1))
    band = Band(release_reach(4, 256, 0.4, 16), 16, 1)
    specs = {
        "disk": RulePlanSpec(Disk(9), image, 37, q_tile=tile, k_tile=tile, pad=True, text_rows=False),
        "disk, small keys": RulePlanSpec(Disk(9), image, 0, 128, 64, tile, (1, 8, 8), pad=True),
        "box": RulePlanSpec(window, video, 37, q_tile=cube, k_tile=cube, pad=True, text_rows=False),
        "band": RulePlanSpec(band, (4, 16, 16), 37, text_rows=False),
    }
    return {name: spec.build(device) for name, spec in specs.items()}


def tensors(plan, D, dtype, B=2, H=3):
    g = torch.Generator("cuda").manual_seed(0)
    q = torch.randn(B, H, plan.s_q, D, generator=g, device="cuda", dtype=dtype).transpose(1, 2)
    k, v = torch.randn(B, plan.s_kv, 2, H, D, generator=g, device="cuda", dtype=dtype).unbind(2)
    return q, k, v


def ratio(got, want):
    return float((got.double() - want).square().mean().sqrt() / want.square().mean().sqrt())


@pytest.mark.parametrize("dtype", RATIO, ids=str)
@pytest.mark.parametrize("D", [32, 64, 96, 128])
@pytest.mark.parametrize("name", ["disk", "box", "band", "lut"])
def test_forward_and_gradients(name, D, dtype):
    plan = plans()[name]
    q, k, v = (x.requires_grad_() for x in tensors(plan, D, dtype))
    out, lse = api.attention(q, k, v, plan)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    want, want_lse = reference.attention(*exact, plan)
    assert ratio(out, want) < RATIO[dtype]
    assert (lse - want_lse).abs().max() < (1e-4 if dtype == torch.float32 else 2e-3)
    do = torch.randn_like(want)
    ours = torch.autograd.grad(out, (q, k, v), do.to(dtype))
    for x, y in zip(ours, torch.autograd.grad(want, exact, do.to(dtype).double()), strict=True):
        assert ratio(x, y) < 3 * RATIO[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [64, 128])
@pytest.mark.parametrize("name", ["disk", "disk, small keys", "box", "band"])
def test_rules_computed_from_the_first_token_of_a_block(name, D, dtype):
    plan = box_plans()[name]
    assert plan.form.computed
    q, k, v = tensors(plan, D, dtype)
    want, want_lse = reference.attention(q.double(), k.double(), v.double(), plan)
    out, lse = api.attention(q, k, v, plan, with_lse=True)
    there = plan.q_coord != PAD
    assert ratio(out[:, there], want[:, there]) < RATIO[dtype]
    assert (lse - want_lse)[..., there].abs().max() < (1e-4 if dtype == torch.float32 else 2e-3)
    looked_up, _ = api.attention(q, k, v, replace(plan, form=LOOKED_UP))
    assert ratio(looked_up[:, there], want[:, there]) < RATIO[dtype]


@pytest.mark.parametrize("blocks", [(64, 64), (128, 64), (32, 16)])
def test_other_blocks(blocks):
    for plan in plans(*blocks).values():
        q, k, v = tensors(plan, 128, torch.bfloat16)
        want, _ = reference.attention(q.double(), k.double(), v.double(), plan)
        assert ratio(api.attention(q, k, v, plan)[0], want) < RATIO[torch.bfloat16]


def test_gain_and_bias():
    plan = plans()["box"]
    q, k, v = tensors(plan, 64, torch.float16)
    gain, bias = torch.rand(2, 3, plan.rows, device="cuda"), torch.randn(2, 3, plan.rows, 64, device="cuda")
    plain, _ = api.attention(q, k, v, plan)
    out, _ = api.attention(q, k, v, plan, gain=gain, bias=bias)
    block = torch.arange(plan.s_q, device="cuda") // plan.block_q
    want = plain.double() * gain.mT[:, block, :, None] + bias.transpose(1, 2)[:, block]
    assert ratio(out, want) < RATIO[torch.float16]


def test_same_bits_twice():
    plan = plans()["disk"]
    q, k, v = (x.requires_grad_() for x in tensors(plan, 128, torch.bfloat16))
    runs = []
    for _ in range(2):
        out, _ = api.attention(q, k, v, plan)
        runs.append((out, *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))))
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


def test_offsets_beyond_32_bits():
    """The last head of the second batch row starts past 2^31 elements; slicing it out gives the same."""
    grid = (1, 320, 320)
    plan = RulePlanSpec(Disk(4), grid, q_tile=(1, 8, 16), k_tile=(1, 8, 16)).build("cuda")
    H, D = 96, 128
    shape = 2, plan.s_q, H, D
    assert torch.Size(shape).numel() > 2**31
    q = torch.empty(shape, device="cuda", dtype=torch.float16).normal_()
    out, _ = api.attention(q, q, q, plan)
    last = q[1:, :, -1:].contiguous()
    torch.testing.assert_close(out[1:, :, -1:], api.attention(last, last, last, plan)[0])


def test_compiled_in_one_graph():
    plan = plans()["band"]
    q, k, v = tensors(plan, 64, torch.float16)
    compiled = torch.compile(lambda *x: api.attention(*x, plan)[0] * 2, fullgraph=True)
    assert torch.equal(compiled(q, k, v), api.attention(q, k, v, plan)[0] * 2)
