"""The operators with plans of the package, through the kernels: the same as the reference."""

import pytest
import torch

from diffusers_ext.kernels.block_sparse import api, reference
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.plan import from_mask
from diffusers_ext.kernels.plan.spec import RulePlanSpec

SIZE = dict(text=7, block_q=32, block_k=32)
PLANS = {
    "disk, tile by tile": RulePlanSpec(Disk(3), (1, 9, 11), q_tile=(1, 4, 8), k_tile=(1, 8, 4), **SIZE).build,
    "disk, padded tiles": RulePlanSpec(
        Disk(3), (1, 7, 9), q_tile=(1, 4, 8), k_tile=(1, 4, 8), pad=True, **SIZE
    ).build,
    "whole tiles": RulePlanSpec(
        Disk(4), (1, 9, 11), q_tile=(1, 4, 8), k_tile=(1, 8, 4), pad=True, snap=True, **SIZE
    ).build,
    "box": RulePlanSpec(Window((3, 5, 7), (2, 3, 4), (1, 2, 1)), (3, 5, 7), **SIZE).build,
    "band": RulePlanSpec(Band(release_reach(4, 30, 0.5, 8), 6, 1), (4, 5, 6), **SIZE).build,
    "lut": lambda: from_mask(torch.ones(50, 41).tril().bool(), 16, 16),
}


@pytest.mark.parametrize("name", PLANS)
def test_kernels_equal_the_reference(name):
    plan = PLANS[name]()
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, plan.s_q, 1, 32, generator=g)
    k, v = torch.randn(2, 1, plan.s_kv, 1, 32, generator=g)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    real = plan.q_coord != -2  # padded queries hold anything
    results = []
    for attend in (api.attention, reference.attention):
        out, lse = attend(*inputs, plan)
        out, lse = out[:, real], lse[:, :, real]
        results.append((out, lse, *torch.autograd.grad(out.square().sum() + lse.sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_heads_that_are_too_large_are_one_sentence():
    plan = PLANS["lut"]()
    q, k = torch.randn(1, 50, 1, 256), torch.randn(1, 41, 1, 256)
    with pytest.raises(ValueError, match="1 to 128 dims, got 256; use the reference"):
        api.attention(q, k, k, plan)


def test_double_precision_is_one_sentence():
    """The reference takes it; the kernels, which TRITON_INTERPRET selects, do not."""
    plan = PLANS["lut"]()
    q, k = torch.randn(1, 50, 1, 32, dtype=torch.float64), torch.randn(1, 41, 1, 32, dtype=torch.float64)
    words = (
        "take float16, bfloat16 and float32, got elements of 64 bits; cast the tensors or use the reference"
    )
    with pytest.raises(ValueError, match=words):
        api.attention(q, k, k, plan)
    assert api.attention(q, k, k, plan, triton=False)[0].dtype == torch.float64
