"""Run block-sparse attention through torch's FlexAttention, for inference without our Triton kernels.

Compiled, it visits the listed blocks only. Uncompiled it would hold the full square in memory. So `prepare`
always compiles, except inside an outer `torch.compile`, which traces it with the rest.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ..masks.visible import visible
from ..plan.plan import BlockPlan
from . import api

log = logging.getLogger("diffusers_ext")
GRAPHS = 64  # sizes and rules in one process; with more, dynamo would fall back to the uncompiled square


def block_mask(plan: BlockPlan) -> BlockMask:
    """Convert a plan to FlexAttention's terms; memory is 8 bytes a block pair."""
    rows, columns = plan.rows, -(-plan.s_kv // plan.block_k)
    full = (plan.col & 1).bool()
    parts = [_padded(plan, ~full, rows, columns), _padded(plan, full, rows, columns)]
    kind, params, table = plan.kind, plan.params, plan.table
    q_coord, k_coord = plan.q_coord, plan.k_coord

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return visible(kind, params, table, q_coord[q], k_coord[k])

    return BlockMask.from_kv_blocks(
        *parts[0],
        *parts[1],
        BLOCK_SIZE=(plan.block_q, plan.block_k),
        mask_mod=rule,
        seq_lengths=(plan.s_q, plan.s_kv),
        compute_q_blocks=False,  # only gradients need them
    )


def prepare(plan: BlockPlan) -> Callable[[Tensor, Tensor, Tensor, BlockPlan], tuple[Tensor, None]]:
    """Make a function of `q [B, S_q, H, D]`, `k, v [B, S_kv, H, D]` and this same plan -> `out` like q.

    Raises `NotImplementedError` for gradients on a CPU, where FlexAttention has none, and `ValueError` for
    more than one plan (one a head).
    """
    if plan.row_ptr.shape[0] != 1:
        raise ValueError(
            f"The FlexAttention back-end takes one plan for all heads, got {plan.row_ptr.shape[0]}; use "
            "backend='reference'."
        )
    mask = block_mask(plan)
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> tuple[Tensor, None]:
        if torch.is_grad_enabled() and q.device.type == "cpu" and any(x.requires_grad for x in (q, k, v)):
            raise NotImplementedError(
                "FlexAttention has no gradients on a CPU; use backend='reference', or torch.no_grad()."
            )
        tensors = [x.transpose(1, 2) for x in (q, k, v)]
        if torch.compiler.is_compiling():
            out = flex_attention(*tensors, block_mask=mask)
        else:
            with torch._dynamo.config.patch(recompile_limit=GRAPHS):
                out = compiled(*tensors, block_mask=mask)
        return out.transpose(1, 2), None

    return run


class OrReference:
    """FlexAttention over a plan, with the reference in its place for gradients, and for good once it fails.

    `failed` is then one sentence.
    """

    def __init__(self, plan: BlockPlan) -> None:
        """Raise what `prepare` raises."""
        self.failed = ""
        self._run = prepare(plan)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> tuple[Tensor, Tensor | None]:
        """Attend as `prepare` says."""
        if torch.compiler.is_compiling():
            return self._run(q, k, v, plan)
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        if not self.failed and not learns:
            try:
                return self._run(q, k, v, plan)
            except Exception as error:  # compilers fail in many ways
                first = str(error).strip().partition("\n")[0]
                self.failed = f"FlexAttention failed ({type(error).__name__}: {first[:100]})"
                log.warning("%s; attention goes on with the reference.", self.failed)
        return api.attention(q, k, v, plan, triton=False)


def _padded(plan: BlockPlan, chosen: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Pad the chosen list entries: counts `int32 [1, 1, NQ]`, ascending columns `int32 [1, 1, NQ, NK]`."""
    device = plan.col.device
    row = torch.repeat_interleave(torch.arange(rows, device=device), plan.row_ptr[0].diff().long())
    there = torch.zeros(rows, columns, dtype=torch.bool, device=device)
    there[row[chosen[0]], (plan.col[0] >> 1)[chosen[0]].long()] = True
    indices = there.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    return there.sum(1).int()[None, None], indices.int()[None, None]
