"""Blocks of tokens summed up: their mean, and how far their tokens lie from it.

A shorter last block counts the tokens that it has. Shapes depend on shapes only, so compiled code and CUDA
graphs take both functions.
"""

import torch
from torch import Tensor


def means(x: Tensor, block: int) -> Tensor:
    """Mean of every `block` tokens of `x [B, S, H, D]`: `[B, H, ceil(S/block), D]`, fp32 (fp64 for fp64)."""
    return _over_blocks([part.mean(2, dtype=_exact(x)) for part in _blocks(x, block)])


def spreads(x: Tensor, mean: Tensor, block: int) -> Tensor:
    """Mean of `|x - mean|` over every block, channel by channel; `mean` and the result are as in `means`.

    Differences are taken in the dtype of `x`, so that half precision needs no copy of twice its size.
    """
    centres = mean.to(x.dtype).transpose(1, 2).unsqueeze(2)
    parts, first = [], 0
    for part in _blocks(x, block):
        centre = centres[:, first : first + part.shape[1]]
        parts.append((part - centre).abs().mean(2, dtype=_exact(x)))
        first += part.shape[1]
    return _over_blocks(parts)


def _blocks(x: Tensor, block: int) -> list[Tensor]:
    """Whole blocks `[B, S // block, block, H, D]`, then what is left as one block of its own."""
    count, rest = divmod(x.shape[1], block)
    parts = [x[:, : count * block].unflatten(1, (count, block))] if count else []
    return parts + ([x[:, count * block :].unsqueeze(1)] if rest else [])


def _over_blocks(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, 1).transpose(1, 2)


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
