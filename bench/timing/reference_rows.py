"""Compare sampled rows of attention with the same rows over explicit masks: the check beside every time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.block_sparse.select import Selection
from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.masks.visible import visible
from diffusers_ext.kernels.plan.dynamic import DynamicPlan
from diffusers_ext.kernels.plan.plan import BlockPlan

TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}  # of the RMS of the output
SAMPLED = 64


def sample(length: int, device: torch.device | str) -> Tensor:
    """Return the numbers of random rows, and of the first and the last."""
    rows = torch.randperm(length, generator=torch.Generator().manual_seed(0))[:SAMPLED]
    return torch.cat([rows, torch.tensor([0, length - 1])]).to(device)


def rms_ratio(got: Tensor, want: Tensor) -> float:
    """Return the RMS of the difference over the RMS of what is wanted."""
    got, want = got.float(), want.float()
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


def row_error(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    seen: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
) -> float:
    """Return the RMS error of `out [B, R, H, D]`, relative, for queries `q [B, R, H, D]` and all keys.

    Keys and values are `k, v [B, S, H, D]`.

    `seen`, bool, spreads to `[B, H, R, S]`; `gain [B, H, R, 1]` and `bias [B, H, R, D]` follow the softmax.
    """
    B, R, H, _ = q.shape
    seen = seen.expand(B, H, R, k.shape[1])
    want = []
    for h in range(H):  # one head at a time, as logits take 4 bytes a key
        logits = q[:, :, h].float() @ k[:, :, h].float().mT * q.shape[-1] ** -0.5
        row = logits.masked_fill(~seen[:, h], -torch.inf).softmax(-1) @ v[:, :, h].float()
        want.append(row if gain is None else gain[:, h] * row + bias[:, h])
    return rms_ratio(out, torch.stack(want, 2))


def sampled_error(q: Tensor, k: Tensor, v: Tensor, out: Tensor, plan: BlockPlan) -> float:
    """Return the error of sampled rows of `out [B, S, H, D]`, with all tensors in the order of the plan."""
    rows = sample(q.shape[1], q.device)
    seen = visible(plan.kind, plan.params, plan.table, plan.q_coord[rows, None], plan.k_coord[None])
    return row_error(q[:, rows], k, v, out[:, rows], seen)


def rectified_error(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, candidates: DynamicPlan, found: Selection
) -> float:
    """Return the error of sampled rows of rectified attention over the found blocks, in the plan's order."""
    rows = sample(q.shape[1], q.device)
    block = rows // candidates.block_q
    key_block = torch.arange(k.shape[1], device=q.device) // candidates.block_k
    there = candidates.k_coord.view(-1, 1, 1, k.shape[1]) != PAD
    gain, bias = found.gain[:, :, block, None].float(), found.bias[:, :, block].float()
    seen = found.kept[:, :, block][..., key_block] & there
    return row_error(q[:, rows], k, v, out[:, rows], seen, gain, bias)


def gradient_error(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> float:
    """Return the largest error of the three gradients against dense attention under an explicit mask."""
    seen = visible(plan.kind, plan.params, plan.table, plan.q_coord[:, None], plan.k_coord[None])
    g = torch.randn_like(q)
    got = torch.autograd.grad(api.attention(q, k, v, plan)[0], (q, k, v), g)
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    heads_first = (x.transpose(1, 2) for x in exact)
    dense = F.scaled_dot_product_attention(*heads_first, attn_mask=seen).transpose(1, 2)
    want = torch.autograd.grad(dense, exact, g.float())
    return max(rms_ratio(x, y) for x, y in zip(got, want, strict=True))
