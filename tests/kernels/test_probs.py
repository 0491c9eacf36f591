"""Columns of attention against complete maps, their gradients, and the memory that is not used."""

import pytest
import torch

from diffusers_ext.kernels.probs import column_probs

from ..tiny_models import unet


def qkv(n=30, s=11, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    make = lambda length: torch.randn(2, length, 3, 4, generator=draw, dtype=dtype)  # noqa: E731
    return make(n).requires_grad_(), make(s).requires_grad_()


def whole(q, k, bias=None):
    logits = torch.einsum("bnhd,bshd->bhns", q, k) * q.shape[-1] ** -0.5
    return (logits if bias is None else logits + bias).softmax(-1)


@pytest.mark.parametrize("pairs", [1 << 20, 44, 5])
@pytest.mark.parametrize("columns", [slice(2, 7), torch.tensor([9, 0, 4])])
def test_columns_and_gradients_are_those_of_the_map(pairs, columns):
    q, k = qkv()
    ours, wanted = column_probs(q, k, columns, pairs=pairs), whole(q, k)[..., columns]
    torch.testing.assert_close(ours, wanted)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for got, want in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k)),
        torch.autograd.grad((wanted * weight).sum(), (q, k)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("pairs", [1 << 20, 44])
def test_masks_hide_keys(pairs):
    q, k = qkv()
    shown = torch.rand(2, 1, 30, 11, generator=torch.Generator().manual_seed(2)) > 0.3
    shown[..., 0] = True
    bias = torch.zeros(shown.shape, dtype=torch.float64).masked_fill(~shown, -torch.inf)
    for mask, rows in ((shown, bias), (bias, bias), (shown[:, :, :1], bias[:, :, :1])):
        ours = column_probs(q, k, slice(0, 11), mask, pairs)
        torch.testing.assert_close(ours, whole(q, k, rows))
        assert torch.allclose(ours.sum(-1), torch.ones((), dtype=ours.dtype))


def test_they_are_the_scores_of_diffusers():
    attn = unet.unet().mid_block.attentions[0].transformer_blocks[0].attn2
    draw = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 24, 32, generator=draw), torch.randn(2, 7, 32, generator=draw)
    q, k = attn.to_q(image), attn.to_k(text)
    wanted = attn.get_attention_scores(attn.head_to_batch_dim(q), attn.head_to_batch_dim(k))
    ours = column_probs(*(x.unflatten(-1, (attn.heads, -1)) for x in (q, k)), slice(0, 7))
    torch.testing.assert_close(ours.flatten(0, 1), wanted, rtol=1e-5, atol=1e-6)


def test_no_map_of_all_pairs_is_kept_for_gradients():
    """Of 600 x 600 pairs, no tensor of more than a tenth is saved."""
    q, k = qkv(600, 600, torch.float32)
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        column_probs(q, k, slice(0, 5), pairs=6000).sum()
    assert max(saved) * 10 < 2 * 3 * 600 * 600
