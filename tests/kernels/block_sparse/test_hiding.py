"""Rows of a batch that hide keys of their own: the padding of prompts behind the tokens of a grid.

`interpreted/` compares the Triton kernels in the same way.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.masks.band import Band
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.plan import BlockPlan
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ...close import close
from .test_reference import dense, mask_of, tensors

GRID, TEXT = (2, 5, 6), 25
LENGTHS = (4, 25, 0)  # of the prompts of a batch
TILES = dict(q_tile=(1, 4, 4), k_tile=(1, 4, 4))
PLANS = {
    "disk": RulePlanSpec(Disk(3), GRID, TEXT, 16, 16, **TILES, pad=True),
    "box": RulePlanSpec(Window(GRID, (2, 3, 4), (1, 1, 2)), GRID, TEXT, 16, 16, **TILES),
    "band": RulePlanSpec(Band((8, 3), GRID[2]), GRID, TEXT, 16, 16),
    "tiles": RulePlanSpec(Window(GRID, (2, 3, 3)), GRID, TEXT, 16, 16, **TILES, pad=True, snap=True),
    "strict": RulePlanSpec(Band((20, 9), GRID[2]), GRID, TEXT, 16, 16, snap=True),
}
every_plan = pytest.mark.parametrize("name", PLANS)


def problem(name: str, heads: int = 1) -> tuple[BlockPlan, Tensor, list[Tensor]]:
    """A plan for masked text, which keys each row sees, `[B, S_kv]`, and q, k, v in fp32."""
    plan = replace(PLANS[name], text_rows=False, masked_text=True).build()
    text = torch.arange(plan.s_kv) - (plan.s_kv - TEXT)
    seen = text < torch.tensor(LENGTHS)[:, None]
    return plan, seen, tensors(plan.s_q, plan.s_kv, heads, batch=len(LENGTHS), dtype=torch.float32)


@pytest.mark.parametrize("name", ["disk", "box", "band"])
def test_equal_to_masked_dense_attention_with_gradients(name):
    plan, seen, inputs = problem(name)
    inputs = [x.requires_grad_() for x in inputs]
    out, _ = api.attention(*inputs, plan.hiding(seen))
    real = plan.q_coord >= 0
    wanted = dense(*inputs, (mask_of(plan) & seen[:, None])[:, None])[:, real]
    close(out[:, real], wanted, dtype=torch.float32)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((out[:, real] * weight).sum(), inputs)
    for got, want in zip(grads, torch.autograd.grad((wanted * weight).sum(), inputs), strict=True):
        close(got, want, dtype=torch.float32)


@every_plan
@torch.no_grad()
def test_hidden_keys_change_no_bit_and_seen_ones_do(name):
    plan, seen, (q, k, v) = problem(name)
    hiding = plan.hiding(seen)
    out, _ = api.attention(q, k, v, hiding)
    hidden = ~seen[:, :, None, None]
    changed, _ = api.attention(q, k.masked_fill(hidden, 9.0), v.masked_fill(hidden, 9.0), hiding)
    assert torch.equal(changed, out)
    whole, _ = api.attention(q, k, v, plan)
    assert [torch.equal(a, b) for a, b in zip(whole, out, strict=True)] == [n == TEXT for n in LENGTHS]


@every_plan
def test_the_same_blocks_are_visited_and_those_with_text_are_asked(name):
    plan, plain = problem(name)[0], replace(PLANS[name], text_rows=False).build()
    assert torch.equal(plan.row_ptr, plain.row_ptr) and torch.equal(plan.col >> 1, plain.col >> 1)
    first_text = (plan.s_kv - TEXT) // 16
    with_text = (plain.col >> 1) >= first_text
    assert (plain.col[with_text] & 1).any() and not (plan.col[with_text] & 1).any()
    assert torch.equal(plan.col[~with_text], plain.col[~with_text])


@torch.no_grad()
def test_a_plan_for_every_row_and_head():
    plan, seen, (q, k, v) = problem("disk", heads=2)
    groups = len(LENGTHS) * q.shape[2]
    many = replace(plan, row_ptr=plan.row_ptr.expand(groups, -1), col=plan.col.expand(groups, -1))
    many = replace(many, row_ptr=many.row_ptr.contiguous(), col=many.col.contiguous())
    out, lse = api.attention(q, k, v, many.hiding(seen), with_lse=True)
    wanted, wanted_lse = api.attention(q, k, v, plan.hiding(seen), with_lse=True)
    real = plan.q_coord >= 0
    close(out[:, real], wanted[:, real])
    close(lse[:, :, real], wanted_lse[:, :, real])


def test_another_batch_is_refused():
    plan, seen, (q, k, v) = problem("disk")
    with pytest.raises(ValueError, match="hides keys of 3 batch rows, got 2; call hiding"):
        api.attention(q[:2], k[:2], v[:2], plan.hiding(seen))
