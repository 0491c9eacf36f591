"""Choice and rectification through the kernel: a plan for each batch row and head, a ragged last block."""

from dataclasses import replace

import pytest
import torch

from diffusers_ext.kernels.block_sparse import reference
from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec
from tests.kernels.block_sparse.rectified import (
    attend,
    constant_in_blocks,
    dense,
    oracle,
    tensors,
    with_text_at,
)

FACTS = DynamicPlanSpec((1, 7, 11), 9, (1, 4, 4), (1, 4, 4), 0.3, touching=False)  # 77 tokens


@pytest.mark.parametrize(
    "D, dtype, tolerance", [(96, torch.float32, 1e-5), (32, torch.float16, 1e-3)], ids=["fp32", "fp16"]
)
def test_kernel_against_the_reference_in_double_precision(D, dtype, tolerance):
    candidates = FACTS.build()
    q, k, v = tensors(candidates, D=D, dtype=dtype)
    out, found = attend(q, k, v, candidates, 0.4)
    exact = (x.double() for x in (q, k, v))
    plan = replace(candidates, row_ptr=found.row_ptr, col=found.col)
    want, _ = reference.attention(*exact, plan, gain=found.gain.double(), bias=found.bias.double())
    assert out.dtype == dtype and not out.isnan().any() and 0 < found.kept.double().mean() < 1
    assert (out - want).abs().max() < tolerance * want.abs().max()


@pytest.mark.parametrize("logit", [-3.0, 3.0])  # the text holds little, or most
@pytest.mark.parametrize("text, hidden", [(9, 0), (9, 4), (0, 0)])
def test_kernel_against_the_published_rule(text, hidden, logit):
    facts = replace(FACTS, text=text, masked_text=hidden > 0)
    candidates = facts.build()
    q, k, v = tensors(candidates, B=1, H=1, D=32)
    q, k = with_text_at(q, k, text, logit)
    seen = torch.arange(text)[None] >= hidden
    wanted, kept = oracle(q, k, v, facts, 0.4, seen)
    every = torch.ones(1, candidates.s_kv, dtype=torch.bool)
    every[:, candidates.text_keys] = seen
    candidates = replace(candidates, k_coord=candidates.k_coord.masked_fill(~every, PAD))
    out, found = attend(*(x.float() for x in (q, k, v)), candidates, 0.4)
    assert torch.equal(found.kept[..., candidates.grid_blocks], kept) and not kept.all()
    assert (out - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_blocks_of_equal_tokens_give_dense_attention():
    candidates = FACTS.build()
    q, k, v = tensors(candidates, D=64, dtype=torch.float32)
    q, k = (constant_in_blocks(x, 16, 77) for x in (q, k))
    out, found = attend(q, k, v, candidates)
    assert (found.gain < 0.9).any()
    assert (out - dense(q, k, v, candidates)).abs().max() < 1e-5
