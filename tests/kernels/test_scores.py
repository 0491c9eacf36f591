"""Logits in half precision against those of float64."""

import pytest
import torch

from diffusers_ext.kernels.perturbed import strongest
from diffusers_ext.kernels.probs import column_probs
from diffusers_ext.kernels.scores import scores


def drawn(dtype, scale=2.0):
    draw = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(1, 96, 2, 64, generator=draw)).to(dtype) for _ in range(2)]


def in_double(q, k):
    return torch.einsum("bnhd,bshd->bhns", q.double(), k.double()) / q.shape[-1] ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_nothing_of_its_inputs(dtype):
    q, k = drawn(dtype)
    wanted = in_double(q, k)
    torch.testing.assert_close(scores(q, k).double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(strongest(q, k), wanted.argmax(-1))


def test_autocast_does_not_round_either():
    q, k = drawn(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = scores(q, k)
    torch.testing.assert_close(ours.double(), in_double(q, k), rtol=1e-5, atol=1e-5)


def test_large_entries_do_not_overflow():
    """Products of 64 entries of 35 sum to 78400, more than fp16 holds."""
    q = torch.full((1, 4, 1, 64), 35.0, dtype=torch.float16)
    ours = column_probs(q, q, slice(0, 4))  # of logits 9800, whose last bit in fp32 is 0.001
    torch.testing.assert_close(ours, torch.full((1, 1, 4, 4), 0.25), rtol=0, atol=1e-3)
