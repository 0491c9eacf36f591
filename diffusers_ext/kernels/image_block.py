"""Compute attention of image rows to themselves and the text, the perturbed block of PAG on joint models."""

import math

import torch
from torch import Tensor


def image_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    image: slice,
    text: slice,
    heads: Tensor | None = None,
) -> Tensor:
    """Attend from image rows to themselves and the text, without an `S x S` mask.

    `q, k, v [B, S, H, D]` -> `[B, N, H, D]`, softmax over `{self i} + text`. With `s_i = q_i.k_i / sqrt(D)`
    and text logits `l`, the output is `g v_i + (1-g) softmax(l) V_text`, `g = sigmoid(s_i - logsumexp(l))`.
    `mask` is that of scaled_dot_product_attention over the full sequence; `heads` are the head numbers of `q`
    in it.
    """
    scale = q.shape[-1] ** -0.5
    qi, ki, vi = (x[:, image].transpose(1, 2) for x in (q, k, v))
    kt, vt = (x[:, text].transpose(1, 2) for x in (k, v))
    own = (qi.float() * ki.float()).sum(-1) * scale  # [B, H, N]
    logits = (qi @ kt.transpose(-1, -2)).float() * scale  # [B, H, N, L]
    if mask is not None:
        bias = (
            mask.float()
            if mask.dtype.is_floating_point
            else torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)
        )
        if bias.shape[1] > 1 and heads is not None:
            bias = bias.index_select(1, heads)
        bias = bias[:, :, image] if bias.shape[2] > 1 else bias
        logits = logits + bias[..., text]
        self_bias = bias[..., image]
        own = own + (self_bias.diagonal(dim1=-2, dim2=-1) if self_bias.shape[2] > 1 else self_bias[:, :, 0])
    gate = torch.sigmoid(own - logits.logsumexp(-1))[..., None].to(v.dtype)
    attended = logits.softmax(-1).to(v.dtype) @ vt
    # Rows whose text is completely masked have gate 1 and an undefined softmax.
    attended = torch.where(gate == 1, torch.zeros_like(attended), attended)
    return (gate * vi + (1 - gate) * attended).transpose(1, 2)
