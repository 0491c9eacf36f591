"""Compute gradients of block-sparse attention in Triton: dQ by row lists, dK and dV by transposed lists.

Probabilities are computed again from the log-sum-exp (Dao, arXiv 2307.08691, algorithm 2). Every output tile
has one program that writes it, so there are no atomics and two runs give the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import LOG2_E, LaunchArgs, launching, options
from .launch_config import Tiles
from .transpose import transpose
from .triton_mask import hide


@triton.jit
def query_kernel(
    q, k, v, out, do, lse, dlse, delta, dq, row_ptr, col, order, q_coord, k_coord, table, rule,
    q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, o_b, o_s, o_h, do_b, do_s, do_h,
    H, S_q, S_kv, NQ, nnz, plan_b, plan_h, coord_b, scale, scale_log2,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr,
    MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute dQ and, for the other kernel, `delta = rowsum(dO * O) - dLSE`; grid (NQ * BM // TM, B * H)."""
    tiles: tl.constexpr = BM // TM
    parts: tl.constexpr = BN // TN
    pid = tl.program_id(0)
    block = tl.load(order + pid // tiles)
    head = tl.program_id(1)
    b = (head // H).to(tl.int64)
    h = (head % H).to(tl.int64)
    k_coord += b * coord_b
    first = block * BM + (pid % tiles) * TM
    start_q = first.to(tl.int64)
    rows = first + tl.arange(0, TM)
    dims = tl.arange(0, BD)
    m_offs = tl.arange(0, TM)[:, None]
    n_offs = tl.arange(0, TN)
    row_mask = (rows[:, None] < S_q) & (dims[None, :] < D)

    q_tile = q + b * q_b + h * q_h + start_q * q_s
    q_here = tl.load(q_tile + m_offs * q_s + dims[None, :], row_mask, other=0.0)
    do_tile = do + b * do_b + h * do_h + start_q * do_s
    do_here = tl.load(do_tile + m_offs * do_s + dims[None, :], row_mask, other=0.0)
    o_tile = out + b * o_b + h * o_h + start_q * o_s
    o_here = tl.load(o_tile + m_offs * o_s + dims[None, :], row_mask, other=0.0)
    stats = head.to(tl.int64) * S_q + rows
    d_here = tl.sum(do_here.to(tl.float32) * o_here.to(tl.float32), 1)
    d_here -= tl.load(dlse + stats, rows < S_q, other=0.0)
    tl.store(delta + stats, d_here, rows < S_q)
    log2_sum = tl.load(lse + stats, rows < S_q, other=float("inf")) * 1.4426950408889634
    log2_sum = tl.where(log2_sum == float("-inf"), 0.0, log2_sum)  # an empty row: every score is -inf as well

    k_head = k + b * k_b + h * k_h
    v_head = v + b * v_b + h * v_h
    plan = b * plan_b + h * plan_h
    pointers = row_ptr + plan * (NQ + 1) + block
    entries = col + plan * nnz
    acc = tl.zeros([TM, BD], tl.float32)
    for i in range(tl.load(pointers) * parts, tl.load(pointers + 1) * parts):
        entry = tl.load(entries + i // parts)
        start = (entry >> 1) * BN + (i % parts) * TN
        columns = start + n_offs
        mask = (columns[:, None] < S_kv) & (dims[None, :] < D)
        k_here = tl.load(
            k_head + start.to(tl.int64) * k_s + n_offs[:, None] * k_s + dims[None, :], mask, other=0.0
        )
        v_here = tl.load(
            v_head + start.to(tl.int64) * v_s + n_offs[:, None] * v_s + dims[None, :], mask, other=0.0
        )
        s = tl.dot(q_here, tl.trans(k_here), input_precision=PRECISION) * scale_log2
        if entry & 1 == 0:
            s = hide(s, rows[:, None], columns[None, :], q_coord, k_coord, table, rule, S_q, S_kv, MASK)
        p = tl.exp2(s - log2_sum[:, None])
        dp = tl.dot(do_here, tl.trans(v_here), input_precision=PRECISION)
        ds = p * (dp - d_here[:, None])
        acc = tl.dot(ds.to(k_here.dtype), k_here, acc, input_precision=PRECISION)
    dq_tile = dq + ((b * S_q + start_q) * H + h) * D
    tl.store(dq_tile + m_offs * (H * D) + dims[None, :], (acc * scale).to(dq.dtype.element_ty), row_mask)


@triton.jit
def key_kernel(
    q, k, v, do, lse, delta, dk, dv, col_ptr, row, q_coord, k_coord, table, rule,
    q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, do_b, do_s, do_h,
    H, S_q, S_kv, NK, nnz, plan_b, plan_h, coord_b, scale, scale_log2,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr,
    MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute dK and dV; grid (NK * BN // TN, B * H). Scores are transposed, [TN, TM]."""
    tiles: tl.constexpr = BN // TN
    parts: tl.constexpr = BM // TM
    pid = tl.program_id(0)
    block = pid // tiles
    head = tl.program_id(1)
    b = (head // H).to(tl.int64)
    h = (head % H).to(tl.int64)
    k_coord += b * coord_b
    first = block * BN + (pid % tiles) * TN
    start_k = first.to(tl.int64)
    columns = first + tl.arange(0, TN)
    dims = tl.arange(0, BD)
    n_offs = tl.arange(0, TN)[:, None]
    m_offs = tl.arange(0, TM)
    column_mask = (columns[:, None] < S_kv) & (dims[None, :] < D)
    k_tile = k + b * k_b + h * k_h + start_k * k_s
    k_here = tl.load(k_tile + n_offs * k_s + dims[None, :], column_mask, other=0.0)
    v_tile = v + b * v_b + h * v_h + start_k * v_s
    v_here = tl.load(v_tile + n_offs * v_s + dims[None, :], column_mask, other=0.0)

    q_head = q + b * q_b + h * q_h
    do_head = do + b * do_b + h * do_h
    stats = head.to(tl.int64) * S_q
    plan = b * plan_b + h * plan_h
    pointers = col_ptr + plan * (NK + 1) + block
    entries = row + plan * nnz
    acc_k = tl.zeros([TN, BD], tl.float32)
    acc_v = tl.zeros([TN, BD], tl.float32)
    for i in range(tl.load(pointers) * parts, tl.load(pointers + 1) * parts):
        entry = tl.load(entries + i // parts)
        start = (entry >> 1) * BM + (i % parts) * TM
        rows = start + m_offs
        mask = (rows[:, None] < S_q) & (dims[None, :] < D)
        q_here = tl.load(
            q_head + start.to(tl.int64) * q_s + m_offs[:, None] * q_s + dims[None, :], mask, other=0.0
        )
        do_tile = do_head + start.to(tl.int64) * do_s
        do_here = tl.load(do_tile + m_offs[:, None] * do_s + dims[None, :], mask, other=0.0)
        # rows past the end get probability 0
        log2_sum = tl.load(lse + stats + rows, rows < S_q, other=float("inf")) * 1.4426950408889634
        log2_sum = tl.where(log2_sum == float("-inf"), 0.0, log2_sum)
        d_here = tl.load(delta + stats + rows, rows < S_q, other=0.0)
        s = tl.dot(k_here, tl.trans(q_here), input_precision=PRECISION) * scale_log2
        if entry & 1 == 0:
            s = hide(s, rows[None, :], columns[:, None], q_coord, k_coord, table, rule, S_q, S_kv, MASK)
        p = tl.exp2(s - log2_sum[None, :])
        acc_v = tl.dot(p.to(do_here.dtype), do_here, acc_v, input_precision=PRECISION)
        dp = tl.dot(v_here, tl.trans(do_here), input_precision=PRECISION)
        ds = p * (dp - d_here[None, :])
        acc_k = tl.dot(ds.to(q_here.dtype), q_here, acc_k, input_precision=PRECISION)
    where = ((b * S_kv + start_k) * H + h) * D
    tl.store(
        dk + where + n_offs * (H * D) + dims[None, :], (acc_k * scale).to(dk.dtype.element_ty), column_mask
    )
    tl.store(dv + where + n_offs * (H * D) + dims[None, :], acc_v.to(dv.dtype.element_ty), column_mask)


def backward(
    do: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    launch: LaunchArgs, *, scale: float, tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute the gradients `dq`, `dk`, `dv`, contiguous and in the shape and dtype of `q`, `k`, `v`.

    Shapes: `do`, `out` `[B, S_q, H, D]`; `dlse`, `lse` `fp32 [B, H, S_q]`; the rest is as in `forward`.
    """
    B, S_q, H, D = q.shape
    S_kv, (BM, BN) = k.shape[1], launch.blocks
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if dq.numel() == 0 or dk.numel() == 0:
        return dq.zero_(), dk.zero_(), dv.zero_()
    do = do if do.stride(-1) == 1 else do.contiguous()
    delta = torch.empty(lse.shape, dtype=torch.float32, device=q.device)
    NQ, NK, nnz = launch.row_ptr.shape[1] - 1, -(-S_kv // BN), launch.col.shape[1]
    col_ptr, row = transpose(launch.row_ptr, launch.col, NK)
    tokens = launch.q_coord, launch.k_coord, launch.table, launch.kernel_params
    strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3]
    scalars = *launch.plan_strides(B, H), launch.coord_stride, scale, scale * LOG2_E
    o = tiles or options("dq", q, launch.blocks)
    fixed = dict(D=D, BD=o.dims, BM=BM, BN=BN, MASK=launch.mask, PRECISION=o.precision)
    with launching(q, o):
        query_kernel[(NQ * BM // o.rows, B * H)](
            q, k, v, out, do, lse, dlse.contiguous(), delta, dq, launch.row_ptr, launch.col, launch.order,
            *tokens, *strides, *out.stride()[:3], *do.stride()[:3], H, S_q, S_kv, NQ, nnz, *scalars, **fixed,
            TM=o.rows, TN=o.columns, num_warps=o.warps, num_stages=o.stages,
        )  # fmt: skip
        o = tiles or options("dkv", q, launch.blocks)
        key_kernel[(NK * BN // o.columns, B * H)](
            q, k, v, do, lse, delta, dk, dv, col_ptr, row, *tokens,
            *strides, *do.stride()[:3], H, S_q, S_kv, NK, nnz, *scalars, **fixed,
            TM=o.rows, TN=o.columns, num_warps=o.warps, num_stages=o.stages,
        )  # fmt: skip
    return dq, dk, dv
