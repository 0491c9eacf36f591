"""Plans with extra keys, whose queries are fewer than their keys, through both kernels."""

import pytest
import torch

from diffusers_ext.kernels.block_sparse.api import attention
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.plan.spec import RulePlanSpec
from tests.kernels import oracles


@pytest.mark.parametrize("text, extra", [(0, 5), (5, 6)])
def test_extra_keys_against_dense_attention(text, extra):
    grid = 1, 5, 7
    spec = RulePlanSpec(Disk(3), grid, text, 16, 16, (1, 4, 4), (1, 4, 4), text_rows=False, extra_keys=extra)
    order = spec.q_order
    seen = oracles.in_order(oracles.disk(grid, 3), order, order, text, False, extra)
    g = torch.Generator().manual_seed(text)
    q, k, v, slope = (torch.randn(2, s, 2, 16, generator=g) for s in (35, *[35 + text + extra] * 2, 35))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, _ = attention(*leaves, spec.build())
    got = torch.autograd.grad((out * slope).sum(), leaves)
    views = (x.double().transpose(1, 2) for x in leaves)
    wanted = torch.nn.functional.scaled_dot_product_attention(*views, attn_mask=seen).transpose(1, 2)
    gradients = torch.autograd.grad((wanted * slope).sum(), leaves)
    for ours, theirs in zip((out, *got), (wanted, *gradients), strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
