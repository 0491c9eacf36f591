"""The reference against dense attention in fp64 with an explicit mask, its gradients and its invariants."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.block_sparse.reference import attention
from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.visible import visible
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.plan import BlockPlan, from_mask
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ...close import close


def tensors(s_q, s_kv, heads=2, dim=16, batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, s, heads, dim, generator=generator, dtype=torch.float64).to(dtype)
        for s in (s_q, s_kv, s_kv)
    ]


def dense(q, k, v, seen):
    q, k, v = (x.transpose(1, 2).double() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)


def mask_of(plan):
    return visible(plan.kind, plan.params, plan.table, plan.q_coord[:, None], plan.k_coord[None])


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 13), st.integers(1, 5), st.integers(0, 5), st.integers(1, 9),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_against_masked_dense_attention(h, w, radius, text, block, tiled, text_rows):
    tile = (1, 3, 4) if tiled else None
    spec = RulePlanSpec(Disk(radius), (1, h, w), text, block, 2 * block, tile, tile, tiled, text_rows)
    plan = spec.build()
    q, k, v = tensors(plan.s_q, plan.s_kv)
    out, lse = attention(q, k, v, plan)
    asks = plan.q_coord != PAD
    seen = mask_of(plan)[asks]
    close(out[:, asks], dense(q[:, asks], k, v, seen))
    logits = torch.einsum("bqhd,bkhd->bhqk", q[:, asks], k) / 4
    close(lse[:, :, asks], logits.masked_fill(~seen, -math.inf).logsumexp(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [32, 64, 96, 128])
def test_precisions_and_head_sizes(dtype, dim):
    plan = RulePlanSpec(Window((2, 5, 7), (2, 3, 4), (1, 2, 2)), (2, 5, 7), 3, 16, 8).build()
    q, k, v = tensors(plan.s_q, plan.s_kv, dim=dim, dtype=dtype)
    out, _ = attention(q, k, v, plan)
    assert out.dtype == dtype
    close(out, dense(q, k, v, mask_of(plan)), dtype=dtype)


def test_gradients():
    plan = RulePlanSpec(Disk(2), (1, 3, 4), 2, 4, 3).build()
    inputs = [x.requires_grad_() for x in tensors(plan.s_q, plan.s_kv, heads=1, dim=3, batch=1)]
    assert torch.autograd.gradcheck(lambda *x: attention(*x, plan), inputs)


def test_a_row_without_keys_is_zero():
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1] = False
    out, lse = attention(*tensors(4, 5), from_mask(mask, 2, 2))
    assert bool((out[:, 1] == 0).all()) and bool((lse[:, :, 1] == -math.inf).all())


@pytest.mark.parametrize("groups", [3, 6])
def test_a_plan_for_every_head_or_for_every_row_and_head(groups):
    masks = torch.rand(groups, 20, 24, generator=torch.Generator().manual_seed(1)) < 0.5
    masks = masks.view(groups, 5, 4, 6, 4).any(4, keepdim=True).any(2, keepdim=True).expand(-1, 5, 4, 6, 4)
    masks = masks.reshape(groups, 20, 24).clone()
    masks[:, :, :4] = True
    plans = [from_mask(m, 4, 4) for m in masks]
    most = max(p.col.shape[1] for p in plans)
    plan = BlockPlan(
        **{**vars(plans[0]), "row_ptr": torch.cat([p.row_ptr for p in plans])}
        | {"col": torch.cat([F.pad(p.col, (0, most - p.col.shape[1])) for p in plans])}
    )
    q, k, v = tensors(20, 24, heads=3)
    seen = masks.view(-1, 3, 20, 24)
    close(attention(q, k, v, plan)[0], dense(q, k, v, seen))


def test_a_disk_of_one_token_returns_the_values():
    plan = RulePlanSpec(Disk(1), (1, 5, 6), block_q=8, block_k=8).build()
    q, k, v = tensors(30, 30)
    close(attention(q, k, v, plan)[0], v)


def test_keys_out_of_sight_change_no_bit_of_an_image_row_and_do_change_text_rows():
    spec = RulePlanSpec(Disk(3), (1, 8, 8), text=3, block_q=8, block_k=8)
    plan = spec.build()
    q, k, v = tensors(plan.s_q, plan.s_kv)
    before = attention(q, k, v, plan)[0]
    k[:, 63] += 1.0
    v[:, 63] -= 1.0
    after = attention(q, k, v, plan)[0]
    blind = ~mask_of(plan)[:, 63]
    assert torch.equal(before[:, blind], after[:, blind])
    assert bool((before[:, 64:] != after[:, 64:]).any(-1).all())


def test_two_halves_of_the_keys_merge_by_their_log_sum_exps():
    mask = torch.ones(10, 16, dtype=torch.bool)
    q, k, v = tensors(10, 16)
    parts = [attention(q, k[:, s], v[:, s], from_mask(mask[:, s], 4, 4)) for s in (slice(0, 7), slice(7, 16))]
    weights = torch.stack([lse for _, lse in parts]).softmax(0)
    merged = sum(w.transpose(1, 2)[..., None] * out for w, (out, _) in zip(weights, parts, strict=True))
    close(merged, attention(q, k, v, from_mask(mask, 4, 4))[0])
