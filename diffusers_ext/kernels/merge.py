"""Merge attention over several parts of the keys into attention over all of them."""

from torch import Tensor


def merge(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Merge softmaxes over disjoint parts of the keys into the softmax over all of them.

    `outs [G, B, N, H, D]` and their natural log-sum-exps `lses [G, B, H, N]` -> `out [B, N, H, D]` in the
    dtype of `outs` and `lse [B, H, N]`: `lse = logsumexp_g lse_g`, `out = sum_g exp(lse_g - lse) out_g`. A
    part without keys has -inf and does not count; a row without any keys has 0 and -inf.
    """
    lse = lses.logsumexp(0)
    share = (lses - lse.masked_fill(lse.isneginf(), 0.0)).exp()
    return (outs * share.transpose(-1, -2)[..., None]).sum(0).to(outs.dtype), lse
