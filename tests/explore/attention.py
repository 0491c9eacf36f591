"""The attention of a stock pipeline, written down call by call: an oracle that knows nothing of maps."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from diffusers_ext.families.denoisers import denoisers

SHORT = 16  # queries, of attention inside a text, which HunyuanVideo has in its denoiser


@contextmanager
def watched(pipe):
    """Gives a list that gets `(q, k, mask)`, each `[B, H, N, D]`, of every attention in the denoisers.

    They are those that the stock processors pass to torch, in the order in which they run.
    """
    seen, inside = [], []
    stock = F.scaled_dot_product_attention

    def noting(*args, **named):
        q, k, _, *rest = [*args, *(named[name] for name in ("query", "key", "value") if name in named)]
        if inside and q.shape[2] > SHORT:
            seen.append((q.detach().clone(), k.detach().clone(), rest[0] if rest else named.get("attn_mask")))
        return stock(*args, **named)

    handles = []
    for model in denoisers(pipe).values():
        handles.append(model.register_forward_pre_hook(lambda *_: inside.append(1)))
        handles.append(model.register_forward_hook(lambda *_: inside.clear()))
    F.scaled_dot_product_attention = noting
    try:
        yield seen
    finally:
        F.scaled_dot_product_attention = stock
        for handle in handles:
            handle.remove()


def probabilities(q, k, mask):
    """The map `[B, H, N, S]` in float64, by an explicit softmax."""
    logits = torch.einsum("bhnd,bhsd->bhns", q.double(), k.double()) / q.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1)
