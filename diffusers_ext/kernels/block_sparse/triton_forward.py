"""Block-sparse attention in Triton: one program per query tile reads the list of its key blocks.

It is online softmax with fp32 accumulators (Dao, arXiv 2307.08691, algorithm 1) over a list in place of a
range. FULL blocks check nothing. In PARTIAL ones the rule is computed from the first token of the block where
the plan allows it (`kernels.plan.form`), and else from the coordinates of all tokens. Kernel tiles divide the
blocks of the plan, so a plan made for one GPU runs on another. Offsets between tokens, heads and batches are
64 bit, within a tile 32 bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import LOG2_E, LaunchArgs, forward_options, launching
from .launch_config import Tiles
from .triton_mask import (
    hide,
    hide_absent,
    hide_by_rule,
    hide_runs,
    is_regular,
    last_regular,
    query_facts,
)


@triton.jit
def read_tile(source, start, step, S, D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, TMA: tl.constexpr):
    """Read the `T` tokens from `start` on, of a sequence of `S`, as `[T, BD]`; zero behind its end."""
    if TMA:
        return source.load([start, 0])
    else:
        offs = tl.arange(0, T)[:, None]
        dims = tl.arange(0, BD)[None, :]
        inside = (start + offs < S) & (dims < D)
        return tl.load(source + start.to(tl.int64) * step + offs * step + dims, inside, other=0.0)


@triton.jit
def add_keys(s, v_here, acc, top, total, scale_log2, PRECISION: tl.constexpr):
    """Add the keys of scores `s [TM, TN]`, before scaling, to a running softmax in base 2."""
    new = tl.maximum(top, tl.max(s, 1) * scale_log2)
    # a row that has seen no key yet has no maximum to subtract
    empty = new < -(2.0**60)
    new = tl.where(empty, float("-inf"), new)
    safe = tl.where(empty, 0.0, new)
    p = tl.exp2(s * scale_log2 - safe[:, None])
    shrink = tl.exp2(top - safe)
    total = total * shrink + tl.sum(p, 1)
    acc = tl.dot(p.to(v_here.dtype), v_here, acc * shrink[:, None], input_precision=PRECISION)
    return acc, new, total


@triton.jit
def forward_kernel(
    q, k, v, out, lse, row_ptr, col, order, q_coord, k_coord, table, gain, bias, rule,
    q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, o_b, o_s, o_h,
    H, S_q, S_kv, NQ, nnz, plan_b, plan_h, coord_b, grid_rows, grid_columns, scale_log2,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr,
    MASK: tl.constexpr, Q_H: tl.constexpr, Q_W: tl.constexpr, K_H: tl.constexpr, K_W: tl.constexpr,
    COMPUTED: tl.constexpr, LOOKED_UP: tl.constexpr, LSE: tl.constexpr, RECTIFY: tl.constexpr,
    PRECISION: tl.constexpr, TMA: tl.constexpr, SPECIAL: tl.constexpr,
):  # fmt: skip
    """Compute `out` and `lse`; tensors are as in `forward`.

    The grid is (NQ * BM // TM, B * H); `scale_log2` is the scale times log2(e), above 0. `COMPUTED` and
    `LOOKED_UP` say which kinds of PARTIAL blocks there are, and `Q_H, Q_W, K_H, K_W` are the sides of boxes
    (`kernels.plan.form`).
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
    n_offs = tl.arange(0, TN)[None, :]

    queries = q + b * q_b + h * q_h
    keys = k + b * k_b + h * k_h
    values = v + b * v_b + h * v_h
    if SPECIAL:  # a warp of its own reads everything
        queries = tl.make_tensor_descriptor(queries, [S_q, D], [q_s, 1], [TM, BD])
    if TMA:
        keys = tl.make_tensor_descriptor(keys, [S_kv, D], [k_s, 1], [TN, BD])
        values = tl.make_tensor_descriptor(values, [S_kv, D], [v_s, 1], [TN, BD])
    q_here = read_tile(queries, first, q_s, S_q, D, BD, TM, SPECIAL)

    plan = b * plan_b + h * plan_h
    pointers = row_ptr + plan * (NQ + 1) + block
    entries = col + plan * nnz
    begin = tl.load(pointers)
    end = tl.load(pointers + 1)
    if COMPUTED:
        frame = grid_rows * grid_columns
        q_token = tl.load(q_coord + block * BM)
        facts = query_facts(q_token, (pid % tiles) * TM + m_offs, rule, MASK, Q_H, Q_W)
        last = last_regular(q_token, BM, BN, rule, frame, MASK)

    top = tl.full([TM], float("-inf"), tl.float32)
    total = tl.zeros([TM], tl.float32)
    acc = tl.zeros([TM, BD], tl.float32)
    for i in tl.range(begin * parts, end * parts, warp_specialize=SPECIAL):
        entry = tl.load(entries + i // parts)
        place = (i % parts) * TN
        start = (entry >> 1) * BN + place
        if COMPUTED:
            token = tl.load(k_coord + (entry >> 1) * BN)
        k_here = read_tile(keys, start, k_s, S_kv, D, BD, TN, TMA)
        s = tl.dot(q_here, tl.trans(k_here), input_precision=PRECISION)
        partial = entry & 1 == 0
        if COMPUTED:
            places = place + n_offs
            computed = partial & is_regular(token, last, rule, MASK) if LOOKED_UP else partial
            if computed:
                s = hide_by_rule(
                    s, facts, token, places, table, rule, grid_rows, grid_columns, MASK, K_H, K_W
                )
            # beside that condition, not inside: Triton computes every exponential twice for nested ones
            partial = partial & (computed == 0)
        if LOOKED_UP:
            columns = start + n_offs
            if partial:
                if MASK != "none" and not COMPUTED:
                    s = hide(s, rows[:, None], columns, q_coord, k_coord, table, rule, S_q, S_kv, MASK)
                else:
                    if MASK == "band":
                        s = hide_runs(s, facts, token, places, table, rule, frame)
                    s = hide_absent(s, columns, k_coord, S_kv)
        v_here = read_tile(values, start, v_s, S_kv, D, BD, TN, TMA)
        acc, top, total = add_keys(s, v_here, acc, top, total, scale_log2, PRECISION)

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
    if scale <= 0:  # the kernel wants it above 0, so its sign goes into the queries
        q, scale = (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)
    o, form = (tiles, launch.form) if tiles else forward_options(q, k, v, launch)
    unused = launch.row_ptr  # for pointers that this launch does not read
    with launching(q, o):
        forward_kernel[(NQ * launch.blocks[0] // o.rows, B * H)](
            q, k, v, out, lse, launch.row_ptr, launch.col, launch.order,
            launch.q_coord, launch.k_coord, launch.table,
            unused if gain is None else gain.contiguous(), unused if bias is None else bias.contiguous(),
            launch.kernel_params,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            H, S_q, S_kv, NQ, nnz, *launch.plan_strides(B, H), launch.coord_stride, *form.grid_sides,
            scale * LOG2_E,
            D=D, BD=o.dims, BM=launch.blocks[0], BN=launch.blocks[1], TM=o.rows, TN=o.columns,
            MASK=launch.mask, Q_H=form.q_sides[0], Q_W=form.q_sides[1],
            K_H=form.k_sides[0], K_W=form.k_sides[1],
            COMPUTED=form.computed, LOOKED_UP=form.looked_up, LSE=with_lse, RECTIFY=gain is not None,
            PRECISION=o.precision, TMA=o.tma, SPECIAL=o.special,
            num_warps=o.warps, num_stages=o.stages, maxnreg=o.registers,
        )  # fmt: skip
    return out, lse
