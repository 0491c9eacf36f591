"""Attention put together from parts, against attention over everything."""

import pytest
import torch

from diffusers_ext.kernels.merge import merge


def attention(q, k, v):
    """Definition in fp64: `out [B, N, H, D]` and `lse [B, H, N]`."""
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhnm,bmhd->bnhd", logits.softmax(-1), v), logits.logsumexp(-1)


@pytest.mark.parametrize("cuts", [(11,), (4, 7), (1, 3, 7), (0, 5, 0, 6)])
def test_parts_of_the_keys_merge_to_all_keys(cuts):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 8, dtype=torch.float64) * 3 for n in (5, 11, 11))
    parts = [attention(q, *pair) for pair in zip(k.split(cuts, 1), v.split(cuts, 1), strict=True)]
    outs, lses = (torch.stack([torch.nan_to_num(x, nan=0.0, neginf=-torch.inf) for x in part])
                  for part in zip(*parts, strict=True))  # fmt: skip
    out, lse = merge(outs, lses)
    wanted, wanted_lse = attention(q, k, v)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(lse, wanted_lse)


def test_large_logits_do_not_overflow_and_the_dtype_stays():
    outs, lses = torch.ones(2, 1, 1, 1, 4, dtype=torch.bfloat16), torch.tensor([3e4, 2e4]).view(2, 1, 1, 1)
    out, lse = merge(outs, lses)
    assert torch.equal(out, outs[0]) and out.dtype == torch.bfloat16 and lse.item() == 3e4


def test_rows_without_any_key_give_nothing():
    out, lse = merge(torch.zeros(2, 1, 3, 1, 4), torch.full((2, 1, 1, 3), -torch.inf))
    assert torch.equal(out, torch.zeros(1, 3, 1, 4)) and bool(lse.isneginf().all())
