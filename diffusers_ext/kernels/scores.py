"""Compute logits of attention, scaled and masked as in scaled_dot_product_attention, in fp32 or finer."""

import math

import torch
from torch import Tensor


def scores(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the logits `[B, H, N, S]` of queries `q [B, N, H, D]` and keys `k [B, S, H, D]`.

    Sums in half precision would overflow or merge keys, and autocast would go back to them.
    """
    exact = _exact(q)
    with torch.autocast(q.device.type, enabled=False):
        logits = q.to(exact).transpose(1, 2) @ k.to(exact).permute(0, 2, 3, 1)
    return _masked(logits * q.shape[-1] ** -0.5, mask)


def own_scores(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the logit `[B, H, N]` of each query with the key at its place, both `[B, N, H, D]`."""
    if mask is not None:
        mask = mask[:, :, 0] if mask.shape[2] == 1 else mask.diagonal(dim1=-2, dim2=-1)
    logits = (q.to(_exact(q)) * k.to(_exact(q))).sum(-1).transpose(1, 2)
    return _masked(logits * q.shape[-1] ** -0.5, mask)


def scores_at(q: Tensor, k: Tensor, mask: Tensor | None, numbers: Tensor) -> Tensor:
    """Return the logit `[B, H, N]` of each query with one key, of those with `numbers [B, H, N]`."""
    logits = own_scores(q, at(k, numbers))
    if mask is None:
        return logits
    rows = mask.expand(*numbers.shape[:2], numbers.shape[2], mask.shape[3])
    return _masked(logits, rows.gather(3, numbers[..., None])[..., 0])


def at(x: Tensor, numbers: Tensor) -> Tensor:
    """Return the tokens of `x [B, S, H, D]` with `numbers [B, H, N]`, each head its own: `[B, N, H, D]`."""
    return x.gather(1, numbers.transpose(1, 2)[..., None].expand(-1, -1, -1, x.shape[-1]))


def _masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Apply a mask to logits: one of `bool` is true where a key is seen, any other is added."""
    if mask is None:
        return logits
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, -math.inf)
    return logits + mask.to(logits.dtype)


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
