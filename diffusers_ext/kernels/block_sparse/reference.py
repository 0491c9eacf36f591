"""Define block-sparse attention in plain torch: the oracle of kernels, and what runs where none can.

It takes one block of queries at a time against the keys of its row. So memory grows with the longest row
instead of the square of the sequence. Gradients are in closed form, since autograd is off inside an operator.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..masks.visible import visible
from ..plan.plan import BlockPlan

Rows = Callable[[Tensor, Tensor, Tensor, BlockPlan, int, float], Iterator[tuple[Tensor, Tensor]]]


def rows(
    q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, g: int, scale: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `out [B, H, block_q, D]` and `lse [B, H, block_q]` for each block of queries of plan `g`.

    `q, k, v` are `[B, H, S, D]`, only of the batch rows and heads that follow this plan.
    """
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    for queries, keys, seen in _listed(plan, g):
        logits = (q[:, :, queries].to(exact) @ k[:, :, keys].to(exact).transpose(-1, -2)) * scale
        logits = logits.masked_fill(~seen, -math.inf)
        lse = logits.logsumexp(-1)
        weights = (logits - lse.masked_fill(lse == -math.inf, 0.0)[..., None]).exp()
        yield weights @ v[:, :, keys].to(exact), lse


def attention(
    q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, scale: float | None = None, *,
    gain: Tensor | None = None, bias: Tensor | None = None, rows: Rows = rows,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attend from `q [B, S_q, H, D]` to `k, v [B, S_kv, H, D]`: `out` like `q`, and `lse [B, H, S_q]`.

    All are in plan order. Autograd can pass through. Softmax is in fp32 (fp64 for fp64), the log-sum-exp is
    natural; a row without keys gives 0 and -inf.

    The `G` plans are one for all, one a head, or one a batch row and head. `gain [B, H, NQ]` and `bias [B, H,
    NQ, D]`, both or none, turn the output of query block i into `gain_i * out + bias_i`. `rows` computes the
    rows of one plan.
    """
    B, _, H, D = q.shape
    scale = D**-0.5 if scale is None else scale
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    groups = plan.row_ptr.shape[0]
    parts = []  # per plan: out and lse of its heads
    for g, own in enumerate(_followers(groups, B, H)):
        found = rows(q[own], k[own], v[own], plan.of_rows(own[0]), g, scale)
        rectify = () if gain is None else (gain[own], bias[own])
        parts.append([torch.cat(x, 2) for x in zip(*_finished(found, q.dtype, *rectify), strict=True)])
    outs, lses = zip(*parts, strict=True)
    if groups == B * H and groups > 1:
        outs, lses = ([torch.cat(x[b * H : b * H + H], 1) for b in range(B)] for x in (outs, lses))
        return torch.cat(outs).transpose(1, 2), torch.cat(lses)
    return torch.cat(outs, 1).transpose(1, 2), torch.cat(lses, 1)


def _finished(
    found: Iterator[tuple[Tensor, Tensor]], dtype: torch.dtype, gain: Tensor | None = None,
    bias: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    for row, (out, lse) in enumerate(found):
        if gain is not None:
            out = out * gain[:, :, row, None, None] + bias[:, :, row, None]
        yield out.to(dtype), lse


def _followers(groups: int, B: int, H: int) -> list[tuple[slice, slice]]:
    """Return the batch rows and the heads that follow each of the plans."""
    if groups == 1:
        return [(slice(None), slice(None))]
    own_rows = groups == B * H
    return [
        (slice(g // H, g // H + 1) if own_rows else slice(None), slice(g % H, g % H + 1))
        for g in range(groups)
    ]


def _listed(plan: BlockPlan, g: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield, for each block of queries in plan `g`, its places, the keys listed for it, and which it sees."""
    inside = torch.arange(plan.block_k, device=plan.col.device)
    for row, (begin, end) in enumerate(pairwise(plan.row_ptr[g].tolist())):
        queries = slice(row * plan.block_q, min((row + 1) * plan.block_q, plan.s_q))
        entries = plan.col[g, begin:end, None]
        keys = ((entries >> 1) * plan.block_k + inside).flatten()
        full = (entries & 1).bool().expand(-1, plan.block_k).flatten()[keys < plan.s_kv]
        keys = keys[keys < plan.s_kv]
        coords = plan.q_coord[queries, None], plan.k_coord[..., None, keys]
        yield queries, keys, full | visible(plan.kind, plan.params, plan.table, *coords)


def gradients(
    do: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    plan: BlockPlan, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute `dq [B, S_q, H, D]`, `dk`, `dv` `[B, S_kv, H, D]`, contiguous.

    They come from `do`, shaped like `out`, and `dlse [B, H, S_q]`.

    With `P = exp(S - lse)`: `dV = P^T dO`, `dS = P * (dO V^T - rowsum(dO * O) + dlse)`, `dQ = scale dS K`,
    `dK = scale dS^T Q`; one block of queries at a time, in fp32 (fp64 for fp64).
    """
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    heads_first = [x.transpose(1, 2).to(exact) for x in (q, k, v, do, out)]
    delta = (heads_first[3] * heads_first[4]).sum(-1) - dlse
    stats = [delta, lse.masked_fill(lse == -math.inf, 0.0)]
    grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in heads_first[:3]]
    B, H = lse.shape[:2]
    for g, own in enumerate(_followers(plan.row_ptr.shape[0], B, H)):
        _one_plan(*(x[own] for x in (*heads_first[:4], *stats, *grads)), plan.of_rows(own[0]), g, scale)
    return tuple(x.transpose(1, 2).to(q.dtype).contiguous() for x in grads)


def _one_plan(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, delta: Tensor, lse: Tensor,
    dq: Tensor, dk: Tensor, dv: Tensor, plan: BlockPlan, g: int, scale: float,
) -> None:  # fmt: skip
    """Write `dq` and add to `dk` and `dv`, all `[B', H', S, D]` views of the results."""
    for some, keys, seen in _listed(plan, g):
        logits = (q[:, :, some] @ k[:, :, keys].mT * scale).masked_fill(~seen, -math.inf)
        p = (logits - lse[:, :, some, None]).exp()
        ds = p * (do[:, :, some] @ v[:, :, keys].mT - delta[:, :, some, None]) * scale
        dq[:, :, some] = ds @ k[:, :, keys]
        dk.index_add_(2, keys, ds.mT @ q[:, :, some])
        dv.index_add_(2, keys, p.mT @ do[:, :, some])
