"""Compute chosen columns of attention maps, with gradients, without a map of all pairs."""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_PAIRS = 1 << 20  # logits of a head and row that exist at the same time


def column_probs(
    q: Tensor, k: Tensor, columns: slice | Tensor, mask: Tensor | None = None, pairs: int = _PAIRS
) -> Tensor:
    """Return the attention that queries pay to chosen keys, `[B, H, N, C]` in fp32 or finer.

    `q [B, N, H, D]` and `k [B, S, H, D]`; `columns` are a slice or the numbers of C keys. The softmax goes
    over all S keys. `mask` is that of scaled_dot_product_attention. Queries are taken in groups of at most
    `pairs` logits for a head, and a group is computed again for its gradient. So `S x S` logits never exist.
    """
    queries, keys = q.transpose(1, 2), k.transpose(1, 2)
    count = queries.shape[2]
    size = max(1, pairs // keys.shape[2])
    if count <= size:
        return _group(queries, keys, columns, mask)
    parts = []
    for first in range(0, count, size):
        some = slice(first, first + size)
        own = mask if mask is None or mask.shape[-2] == 1 else mask[..., some, :]
        parts.append(checkpoint(_group, queries[:, :, some], keys, columns, own, use_reentrant=False))
    return torch.cat(parts, dim=2)


def _group(q: Tensor, k: Tensor, columns: slice | Tensor, mask: Tensor | None) -> Tensor:
    logits = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) * q.shape[-1] ** -0.5
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, -math.inf)
    elif mask is not None:
        logits = logits + mask.to(logits.dtype)
    return (logits[..., columns] - logits.logsumexp(-1, keepdim=True)).exp()
