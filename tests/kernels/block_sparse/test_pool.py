import pytest
import torch

from diffusers_ext.kernels.block_sparse.pool import means, spreads


@pytest.mark.parametrize("tokens, block", [(24, 8), (29, 8), (5, 8), (8, 8), (9, 1)])
def test_every_block_counts_its_own_tokens(tokens, block):
    x = torch.randn(2, tokens, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = means(x, block)
    spread = spreads(x, mean, block)
    assert mean.shape == spread.shape == (2, 3, -(-tokens // block), 4)
    for i, part in enumerate(x.split(block, 1)):
        torch.testing.assert_close(mean[:, :, i], part.mean(1))
        torch.testing.assert_close(spread[:, :, i], (part - part.mean(1, keepdim=True)).abs().mean(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    """A thousand tokens of 100: a sum in fp16 overflows, one in bf16 stops growing."""
    x = torch.full((1, 1000, 1, 2), 100.0, dtype=dtype)
    mean = means(x, 1000)
    assert mean.dtype == torch.float32 and torch.equal(mean, torch.full((1, 1, 1, 2), 100.0))
    assert torch.equal(spreads(x, mean, 1000), torch.zeros(1, 1, 1, 2))
