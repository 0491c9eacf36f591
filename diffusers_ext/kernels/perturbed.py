"""Compute outputs of attention with simpler maps, without a map in memory.

Masks are those of scaled_dot_product_attention.
"""

import torch
from torch import Tensor

from .scores import scores

_PAIRS = 1 << 22  # logits of all rows and heads that exist at the same time


def one_query(query: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with the same query `[B, 1, H, D]` in every row to `k, v [B, S, H, D]`.

    Returns `[B, 1, H, D]`, with an entry for each row if the mask has rows. A query of zeros gives the mean
    of the values.
    """
    return (scores(query, k, mask).softmax(-1).to(v.dtype) @ v.transpose(1, 2)).transpose(1, 2)


def mean_query(q: Tensor, rows: Tensor | None) -> Tensor:
    """Return the mean query `[B, 1, H, D]` of `q [B, N, H, D]`, weighted by `rows [1 or B, N, 1, 1]`."""
    exact = torch.promote_types(q.dtype, torch.float32)
    if rows is None:
        return q.mean(1, keepdim=True, dtype=exact).to(q.dtype)
    rows = rows.to(exact)
    return ((q.to(exact) * rows).sum(1, keepdim=True) / rows.sum(1, keepdim=True)).to(q.dtype)


def strongest(q: Tensor, k: Tensor, mask: Tensor | None = None, pairs: int = _PAIRS) -> Tensor:
    """Return the number of the key that each query attends to most, `int64 [B, H, N]`; of ties the first.

    `q [B, N, H, D]` and `k [B, S, H, D]`. At most `pairs` logits exist at a time, or one query's. It is one
    operator of compiled graphs: a loop in them would cost a graph for each size.
    """
    return torch.ops.diffusers_ext.strongest_keys(q.detach(), k.detach(), mask, pairs)


@torch.library.custom_op("diffusers_ext::strongest_keys", mutates_args=())
def strongest_keys(q: Tensor, k: Tensor, mask: Tensor | None, pairs: int) -> Tensor:
    """Compute `strongest` in groups of queries."""
    batch, count, heads, _ = q.shape
    size = max(1, pairs // max(1, batch * heads * k.shape[1]))
    groups = []
    for first in range(0, count, size):
        some = slice(first, first + size)
        own = mask if mask is None or mask.shape[-2] == 1 else mask[..., some, :]
        groups.append(scores(q[:, some], k, own).argmax(-1))
    return torch.cat(groups, dim=-1)


@strongest_keys.register_fake
def _(q, k, mask, pairs):
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.int64)


def beside_text(
    own: Tensor,
    value: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    image: slice,
    text: slice,
) -> Tensor:
    """Attend from image rows to one image key each and the text, without an `S x S` mask: `[B, N, H, D]`.

    That key has the logit `own [B, H, N]` and the value `value [B, N, H, D]`; `q, k, v [B, S, H, D]`. With
    text logits `l` the output is `g value + (1-g) softmax(l) V_text`, `g = sigmoid(own - logsumexp(l))`. If
    the image key is the query's own token, this is the rule of PAG for joint models in diffusers.
    """
    logits = scores(q[:, image], k[:, text], part_of(mask, image, text))  # [B, H, N, L]
    gate = torch.sigmoid(own - logits.logsumexp(-1))[..., None].to(v.dtype)
    attended = logits.softmax(-1).to(v.dtype) @ v[:, text].transpose(1, 2)
    # Rows whose text is completely masked have gate 1 and an undefined softmax.
    attended = torch.where(gate == 1, torch.zeros_like(attended), attended)
    return (gate * value.transpose(1, 2) + (1 - gate) * attended).transpose(1, 2)


def part_of(mask: Tensor | None, queries: slice, keys: slice) -> Tensor | None:
    """Cut a mask `[B, H, 1 or S, S]` to some of its queries and keys."""
    if mask is None:
        return None
    return (mask if mask.shape[2] == 1 else mask[:, :, queries])[..., keys]
