"""Block-sparse attention in Triton: one program per query tile reads the list of its key blocks.

It is online softmax with fp32 accumulators (Dao, arXiv 2307.08691, algorithm 1) over a list in place of a
range. FULL blocks evaluate no predicate. Kernel tiles divide the blocks of the plan, so a plan made for one
GPU runs on another. Offsets between tokens, heads and batches are 64 bit, within a tile 32 bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import LOG2_E, LaunchArgs, device_of, options
from .launch_config import Tiles
from .triton_mask import hide


@triton.jit
def forward_kernel(
    q, k, v, out, lse, row_ptr, col, order, q_coord, k_coord, table, gain, bias, rule,
    q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, o_b, o_s, o_h,
    H, S_q, S_kv, NQ, nnz, plan_b, plan_h, coord_b, scale_log2,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr,
    MASK: tl.constexpr, LSE: tl.constexpr, RECTIFY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute `out` and `lse`; tensors are as in `forward`.

    The grid is (NQ * BM // TM, B * H); `scale_log2` is the scale times log2(e).
    """
    tiles: tl.constexpr = BM // TM
    parts: tl.constexpr = BN // TN
    pid = tl.program_id(0)
    block = tl.load(order + pid // tiles)
    head = tl.program_id(1)
    b = (head // H).to(tl.int64)
    h = (head % H).to(tl.int64)
    k_coord += b * coord_b
    first = block * BM + (pid % tiles) * TM
    rows = first + tl.arange(0, TM)
    dims = tl.arange(0, BD)
    m_offs = tl.arange(0, TM)[:, None]
    n_offs = tl.arange(0, TN)

    q_tile = q + b * q_b + h * q_h + first.to(tl.int64) * q_s
    q_here = tl.load(
        q_tile + m_offs * q_s + dims[None, :], (rows[:, None] < S_q) & (dims[None, :] < D), other=0.0
    )
    k_head = k + b * k_b + h * k_h
    v_head = v + b * v_b + h * v_h

    plan = b * plan_b + h * plan_h
    pointers = row_ptr + plan * (NQ + 1) + block
    entries = col + plan * nnz

    top = tl.full([TM], float("-inf"), tl.float32)
    total = tl.zeros([TM], tl.float32)
    acc = tl.zeros([TM, BD], tl.float32)
    for i in range(tl.load(pointers) * parts, tl.load(pointers + 1) * parts):
        entry = tl.load(entries + i // parts)
        start = (entry >> 1) * BN + (i % parts) * TN
        columns = start + n_offs
        k_tile = k_head + start.to(tl.int64) * k_s
        v_tile = v_head + start.to(tl.int64) * v_s
        k_t = tl.load(
            k_tile + n_offs[None, :] * k_s + dims[:, None],
            (columns[None, :] < S_kv) & (dims[:, None] < D),
            other=0.0,
        )
        s = tl.dot(q_here, k_t, input_precision=PRECISION) * scale_log2
        if entry & 1 == 0:
            s = hide(s, rows[:, None], columns[None, :], q_coord, k_coord, table, rule, S_q, S_kv, MASK)
        new = tl.maximum(top, tl.max(s, 1))
        # a row that has seen no key yet has no finite maximum to subtract
        safe = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - safe[:, None])
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(p, 1)
        v_here = tl.load(
            v_tile + n_offs[:, None] * v_s + dims[None, :],
            (columns[:, None] < S_kv) & (dims[None, :] < D),
            other=0.0,
        )
        acc = tl.dot(p.to(v_here.dtype), v_here, acc * shrink[:, None], input_precision=PRECISION)
        top = new

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    if RECTIFY:
        where = (head * NQ + block).to(tl.int64)
        acc = acc * tl.load(gain + where) + tl.load(bias + where * D + dims, dims < D, other=0.0)[None, :]
    o_tile = out + b * o_b + h * o_h + first.to(tl.int64) * o_s
    o_mask = (rows[:, None] < S_q) & (dims[None, :] < D)
    tl.store(o_tile + m_offs * o_s + dims[None, :], acc.to(out.dtype.element_ty), o_mask)
    if LSE:
        # ln 2 turns the base-2 sum into a natural logarithm; an empty row keeps -inf
        natural = (top + tl.log2(tl.where(total == 0.0, 1.0, total))) * 0.6931471805599453
        tl.store(lse + head.to(tl.int64) * S_q + rows, natural, rows < S_q)


def forward(
    q: Tensor, k: Tensor, v: Tensor, launch: LaunchArgs, *, scale: float, with_lse: bool,
    gain: Tensor | None = None, bias: Tensor | None = None, tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute attention over the blocks of a plan.

    Shapes: `q [B, S_q, H, D]`, `k`, `v` `[B, S_kv, H, D]` with any strides but a dense last axis. `gain [B,
    H, NQ]` and `bias [B, H, NQ, D]`, both or none, turn the output of query block i into `gain_i * out +
    bias_i`. Returns `out [B, S_q, H, D]` in the dtype of `q` and the natural log-sum-exp `fp32 [B, H, S_q]`,
    before gain and bias, or an empty tensor without `with_lse`. A row without keys is 0 with log-sum-exp
    -inf.
    """
    B, S_q, H, D = q.shape
    S_kv, NQ, nnz = k.shape[1], launch.row_ptr.shape[1] - 1, launch.col.shape[1]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((B, H, S_q) if with_lse else (0,), dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return out, lse
    o = tiles or options("forward", q, launch.blocks)
    unused = launch.row_ptr  # for pointers that this launch does not read
    with device_of(q):
        forward_kernel[(NQ * launch.blocks[0] // o.rows, B * H)](
            q, k, v, out, lse, launch.row_ptr, launch.col, launch.order,
            launch.q_coord, launch.k_coord, launch.table,
            unused if gain is None else gain.contiguous(), unused if bias is None else bias.contiguous(),
            launch.kernel_params,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            H, S_q, S_kv, NQ, nnz, *launch.plan_strides(B, H), launch.coord_stride,
            scale * LOG2_E,
            D=D, BD=o.dims, BM=launch.blocks[0], BN=launch.blocks[1], TM=o.rows, TN=o.columns,
            MASK=launch.mask, LSE=with_lse, RECTIFY=gain is not None, PRECISION=o.precision,
            num_warps=o.warps, num_stages=o.stages,
        )  # fmt: skip
    return out, lse
