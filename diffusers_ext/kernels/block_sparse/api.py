"""Define block-sparse attention as two `torch.library` operators, which are single nodes of compiled graphs.

On CUDA tensors they launch the Triton kernels. On a CPU they run the reference, or the same kernels in
Triton's interpreter (`capabilities.interpreted`). `triton=False` runs the reference anywhere. Triton is
imported by the first call that needs it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..masks.rule import Kind
from ..plan.form import BlockForm
from ..plan.plan import BlockPlan
from . import cpu_rows, reference
from .autocast import follows_autocast
from .capabilities import interpreted, why_no_triton


@follows_autocast
def attention(
    q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, scale: float | None = None, *, with_lse: bool = False,
    gain: Tensor | None = None, bias: Tensor | None = None, triton: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attend from `q [B, S_q, H, D]` to the keys that `plan` lists, `k, v [B, S_kv, H, D]` in its order.

    Returns `out` like `q`, contiguous, and the natural log-sum-exp `fp32 [B, H, S_q]`, which is empty unless
    `with_lse` is set or a gradient needs it. A row without keys is 0 with log-sum-exp -inf; rows of padding
    are not defined. `gain [B, H, NQ]` and `bias [B, H, NQ, D]` turn the output of query block i into `gain_i
    * out + bias_i`. `triton=False` takes the reference even if the kernels could run. Raises `ValueError` for
    tensors that do not fit the plan, `NotImplementedError` for gradients with a gain.
    """
    _check_kinds(q, k, v, plan)
    needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return torch.ops.diffusers_ext.block_sparse_forward(
        *(x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v)),
        plan.row_ptr, plan.col, plan.order, plan.q_coord, plan.k_coord, plan.table, gain, bias,
        plan.block_q, plan.block_k, int(plan.kind), list(plan.params), plan.form.numbers,
        q.shape[-1] ** -0.5 if scale is None else scale, with_lse or needs_grad, triton,
    )  # fmt: skip


@torch.library.custom_op("diffusers_ext::block_sparse_forward", mutates_args=())
def block_sparse_forward(
    q: Tensor, k: Tensor, v: Tensor,
    row_ptr: Tensor, col: Tensor, order: Tensor, q_coord: Tensor, k_coord: Tensor, table: Tensor,
    gain: Tensor | None, bias: Tensor | None,
    block_q: int, block_k: int, kind: int, params: Sequence[int], form: Sequence[int], scale: float,
    with_lse: bool, triton: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute `attention` with the plan as raw tensors, so that a graph holds nothing else."""
    lists = row_ptr, col, order, q_coord, k_coord, table
    _check(q, k, v, *lists)
    if triton and _on_triton(q):
        from .triton_forward import forward

        launch = replace(_launch_args(lists, block_q, block_k, kind, params), form=BlockForm.of(form))
        return forward(q, k, v, launch, scale=scale, with_lse=with_lse, gain=gain, bias=bias)
    plan = _plan(lists, block_q, block_k, kind, params)
    rows = cpu_rows.rows if cpu_rows.can_run(q) else reference.rows
    out, lse = reference.attention(q, k, v, plan, scale, gain=gain, bias=bias, rows=rows)
    return out.contiguous(), lse.float() if with_lse else lse.new_empty(0, dtype=torch.float32)


@block_sparse_forward.register_fake
def _(q, k, v, *rest):
    *_, with_lse, _triton = rest
    lse = (q.shape[0], q.shape[2], q.shape[1]) if with_lse else (0,)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty(lse, dtype=torch.float32)


@torch.library.custom_op("diffusers_ext::block_sparse_backward", mutates_args=())
def block_sparse_backward(
    do: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    row_ptr: Tensor, col: Tensor, order: Tensor, q_coord: Tensor, k_coord: Tensor, table: Tensor,
    block_q: int, block_k: int, kind: int, params: Sequence[int], scale: float, triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute the gradients of q, k and v, contiguous, from those of the output and the log-sum-exp."""
    lists = row_ptr, col, order, q_coord, k_coord, table
    if triton and _on_triton(q):
        from .triton_backward import backward

        launch = _launch_args(lists, block_q, block_k, kind, params)
        return backward(do, dlse, q, k, v, out, lse, launch, scale=scale)
    plan = _plan(lists, block_q, block_k, kind, params)
    return reference.gradients(do, dlse, q, k, v, out, lse, plan, scale)


@block_sparse_backward.register_fake
def _(do, dlse, q, k, v, *rest):
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))


def _save(ctx, inputs, output):
    *tensors, gain, _bias, block_q, block_k, kind, params, _form, scale, with_lse, triton = inputs
    if gain is not None or not with_lse:
        raise NotImplementedError(
            "Block-sparse attention has gradients only without gain and bias and with its log-sum-exp; run "
            "rectified attention under torch.no_grad()."
        )
    ctx.save_for_backward(*tensors, *output)
    ctx.settings = block_q, block_k, kind, params, scale, triton


def _gradients(ctx, do, dlse):
    q, k, v, *lists, out, lse = ctx.saved_tensors
    grads = torch.ops.diffusers_ext.block_sparse_backward(do, dlse, q, k, v, out, lse, *lists, *ctx.settings)
    return *grads, *[None] * 16


block_sparse_forward.register_autograd(_gradients, setup_context=_save)


def _on_triton(q: Tensor) -> bool:
    if not q.is_cuda:
        return interpreted()
    if why := why_no_triton():
        raise RuntimeError(f"Block-sparse attention on a GPU needs Triton, or triton=False. {why}")
    return True


def _check_kinds(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> None:
    """Check before dispatch: one tensor on meta is enough for the fake kernel, which computes nothing."""
    lists = plan.row_ptr, plan.col, plan.q_coord, plan.k_coord, plan.table
    if any(x.device != q.device for x in (k, v, *lists)):
        raise ValueError(
            f"q, k, v and the plan must lie on one device, got {q.device}, {k.device}, {v.device} and "
            f"{plan.row_ptr.device}; move the plan with plan.to()."
        )
    if not (q.is_floating_point() and q.dtype == k.dtype == v.dtype):
        raise ValueError(
            f"q, k and v must have one floating-point dtype, got {q.dtype}, {k.dtype} and {v.dtype}; cast "
            "them."
        )


def _check(q: Tensor, k: Tensor, v: Tensor, *lists: Tensor) -> None:
    """Raise for everything that would make a kernel read out of bounds."""
    B, S_q, H, D = q.shape
    S_kv = k.shape[1]
    row_ptr, _, order, q_coord, k_coord, _ = lists
    if k.shape != (B, S_kv, H, D) or v.shape != k.shape:
        raise ValueError(
            f"q, k and v must share batch, heads and head size, got {tuple(q.shape)}, {tuple(k.shape)} and "
            f"{tuple(v.shape)}; repeat grouped keys first."
        )
    if (S_q, S_kv) != (len(q_coord), k_coord.shape[-1]):
        raise ValueError(
            f"The plan is for {len(q_coord)} queries and {k_coord.shape[-1]} keys, got {S_q} and {S_kv}; "
            "make one for these."
        )
    if k_coord.ndim == 2 and len(k_coord) != B:
        raise ValueError(
            f"The plan hides keys of {len(k_coord)} batch rows, got {B}; call hiding() with a row for each."
        )
    if row_ptr.shape[0] not in (1, H, B * H) or order.shape[0] != row_ptr.shape[1] - 1:
        raise ValueError(
            f"A plan is one for all, one a head ({H}) or one a batch row and head ({B * H}), got "
            f"{row_ptr.shape[0]} plans; make it for these heads."
        )


def _launch_args(lists, block_q, block_k, kind, params):
    from .launch import LaunchArgs

    row_ptr, col, order, q_coord, k_coord, table = lists
    mask = Kind(kind).name.lower()
    return LaunchArgs(row_ptr, col, order, (block_q, block_k), mask, tuple(params), q_coord, k_coord, table)


def _plan(lists, block_q, block_k, kind, params) -> BlockPlan:
    row_ptr, col, _, q_coord, k_coord, table = lists
    return BlockPlan(
        row_ptr, col, block_q, block_k, len(q_coord), k_coord.shape[-1], q_coord, k_coord,
        Kind(kind), tuple(params), table, pairs=0,
    )  # fmt: skip
