"""Gradients of the reference in closed form, for the CPU side of the operator: autograd is off inside an
operator.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ..masks import visible
from ..plan import BlockPlan


def gradients(
    do: Tensor,
    dlse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: BlockPlan,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`dq [B, S_q, H, D]`, `dk`, `dv` `[B, S_kv, H, D]`, contiguous, from `do` like `out` and `dlse [B, H,
    S_q]`.

    With `P = exp(S - lse)`: `dV = P^T dO`, `dS = P * (dO V^T - rowsum(dO * O) + dlse)`, `dQ = scale dS K`,
    `dK = scale dS^T Q`; one block of queries at a time, in fp32 (fp64 for fp64).
    """
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    heads_first = [x.transpose(1, 2).to(exact) for x in (q, k, v, do, out)]
    delta = (heads_first[3] * heads_first[4]).sum(-1) - dlse
    stats = [delta, lse.masked_fill(lse == -math.inf, 0.0)]
    grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in heads_first[:3]]
    B, H = lse.shape[:2]
    G = plan.row_ptr.shape[0]
    for g in range(G):
        # the batch rows and heads that follow plan g
        rows = slice(g // H, g // H + 1) if G == B * H and G > 1 else slice(None)
        own = rows, slice(g % H, g % H + 1) if G > 1 else slice(None)
        _one_plan(*(x[own] for x in (*heads_first[:4], *stats, *grads)), plan.of_rows(rows), g, scale)
    return tuple(x.transpose(1, 2).to(q.dtype).contiguous() for x in grads)


def _one_plan(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, delta: Tensor, lse: Tensor,
    dq: Tensor, dk: Tensor, dv: Tensor, plan: BlockPlan, g: int, scale: float,
) -> None:  # fmt: skip
    """Writes `dq` and adds to `dk` and `dv`, all `[B', H', S, D]` views of the results."""
    inside = torch.arange(plan.block_k, device=q.device)
    ends = plan.row_ptr[g].tolist()
    for row, (begin, end) in enumerate(pairwise(ends)):
        some = slice(row * plan.block_q, min((row + 1) * plan.block_q, plan.s_q))
        entries = plan.col[g, begin:end, None]
        keys = ((entries >> 1) * plan.block_k + inside).flatten()
        full = (entries & 1).bool().expand(-1, plan.block_k).flatten()[keys < plan.s_kv]
        keys = keys[keys < plan.s_kv]
        coords = plan.q_coord[some, None], plan.k_coord[..., None, keys]
        seen = full | visible(plan.kind, plan.params, plan.table, *coords)
        logits = (q[:, :, some] @ k[:, :, keys].mT * scale).masked_fill(~seen, -math.inf)
        p = (logits - lse[:, :, some, None]).exp()
        ds = p * (do[:, :, some] @ v[:, :, keys].mT - delta[:, :, some, None]) * scale
        dq[:, :, some] = ds @ k[:, :, keys]
        dk.index_add_(2, keys, ds.mT @ q[:, :, some])
        dv.index_add_(2, keys, p.mT @ do[:, :, some])
