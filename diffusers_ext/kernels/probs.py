"""Compute chosen columns of attention maps, with gradients, without a map of all pairs."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .scores import scores

_PAIRS = 1 << 20  # logits of a head and row that exist at the same time


def column_probs(
    q: Tensor, k: Tensor, columns: slice | Tensor, mask: Tensor | None = None, pairs: int = _PAIRS
) -> Tensor:
    """Return the attention that queries pay to chosen keys, `[B, H, N, C]` in fp32 or finer.

    `q [B, N, H, D]` and `k [B, S, H, D]`; `columns` are a slice or the numbers of C keys. The softmax goes
    over all S keys. `mask` is that of scaled_dot_product_attention. Queries are taken in groups of at most
    `pairs` logits for a head, and a group is computed again for its gradient. So `S x S` logits never exist.
    """
    count = q.shape[1]
    size = max(1, pairs // k.shape[1])
    if count <= size:
        return _group(q, k, columns, mask)
    parts = []
    for first in range(0, count, size):
        some = slice(first, first + size)
        own = mask if mask is None or mask.shape[-2] == 1 else mask[..., some, :]
        parts.append(checkpoint(_group, q[:, some], k, columns, own, use_reentrant=False))
    return torch.cat(parts, dim=2)


def _group(q: Tensor, k: Tensor, columns: slice | Tensor, mask: Tensor | None) -> Tensor:
    logits = scores(q, k, mask)
    return (logits[..., columns] - logits.logsumexp(-1, keepdim=True)).exp()
