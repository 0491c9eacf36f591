"""FlexAttention over our plans against the reference, compiled, at sizes that fit no block."""

import pytest
import torch

from diffusers_ext.kernels.block_sparse import flex, reference
from diffusers_ext.kernels.block_sparse.capabilities import Request, choose
from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.plan import from_mask
from diffusers_ext.kernels.plan.spec import RulePlanSpec
from tests import needs

RECIPES = {
    "disk and text": RulePlanSpec(Disk(3), (1, 9, 14), 5, 16, 16, (1, 4, 4), (1, 4, 4)),
    "window": RulePlanSpec(Window((3, 10, 9), (3, 5, 4)), (3, 10, 9), 0, 32, 16),
    "band": RulePlanSpec(Band(release_reach(5, 40, 0.5), 8), (5, 5, 8), 3, 16, 32),
}


def tensors(plan, dtype, head_dim=24):
    generator = torch.Generator().manual_seed(plan.s_q)
    sizes = plan.s_q, plan.s_kv, plan.s_kv
    return [torch.randn(2, n, 3, head_dim, generator=generator).to(dtype) for n in sizes]


def check(spec, dtype, error):
    plan = spec.build()
    q, k, v = tensors(plan, dtype)
    out, wanted = flex.prepare(plan)(q, k, v, plan)[0], reference.attention(q, k, v, plan)[0]
    asks = plan.q_coord != PAD  # rows of padding are not defined
    torch.testing.assert_close(out[:, asks], wanted[:, asks], atol=error, rtol=0)


@needs.flex
def test_it_equals_the_reference():
    check(RECIPES["disk and text"], torch.float32, 5e-6)


@needs.flex
@pytest.mark.slow  # each case compiles C++ for some ten seconds
@pytest.mark.parametrize("dtype, error", [(torch.float32, 5e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("spec", RECIPES.values(), ids=RECIPES.keys())
def test_it_equals_the_reference_for_every_rule(spec, dtype, error):
    check(spec, dtype, error)


def test_the_mask_has_the_blocks_of_the_plan():
    plan = from_mask(torch.rand(50, 70, generator=torch.Generator().manual_seed(0)) < 0.02, 16, 16)
    mask = flex.block_mask(plan)
    assert int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) == plan.visited
    for row in range(plan.rows):
        listed = plan.col[0, plan.row_ptr[0, row] : plan.row_ptr[0, row + 1]] >> 1
        partial = mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]]
        full = mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]]
        assert sorted([*partial.tolist(), *full.tolist()]) == listed.tolist()


@needs.flex
def test_what_it_cannot_do_it_says():
    plan = RECIPES["disk and text"].build()
    q, k, v = (x.requires_grad_() for x in tensors(plan, torch.float32))
    with pytest.raises(NotImplementedError, match=r"no gradients on a CPU; use backend='reference'"):
        flex.prepare(plan)(q, k, v, plan)
    with pytest.raises(ValueError, match=r"got torch.float64; cast"):
        choose(Request(torch.device("cpu"), torch.float64, 32, (16, 16)), "flex")
