"""Compute the rows of block-sparse attention on a CPU, with the operator that dense attention has there.

It does what `reference.rows` defines, several times faster. Torch's flash operator for CPUs also returns the
log-sum-exp. The rule is asked in PARTIAL blocks only, and a row without any has no mask.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..masks.visible import visible
from ..plan.plan import BlockPlan

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def can_run(q: Tensor) -> bool:
    """Return whether these rows can stand for those of the reference: on a CPU, without autograd or fp64."""
    return q.device.type == "cpu" and q.dtype in DTYPES


def rows(
    q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, g: int, scale: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `out [B, H, block_q, D]` and `lse [B, H, block_q]` for each block of queries of plan `g`.

    The arguments are those of `reference.rows`. The last axis of `q, k, v [B, H, S, D]` has stride 1.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    blocks = q.split(plan.block_q, 2)
    coords = plan.q_coord.split(plan.block_q)
    entries = plan.col[g].tolist()
    for row, (begin, end) in enumerate(pairwise(plan.row_ptr[g].tolist())):
        listed = entries[begin:end]
        if not listed:
            yield torch.zeros_like(blocks[row]), q.new_full(blocks[row].shape[:3], -math.inf).float()
            continue
        runs = _runs(listed, plan)
        mask, empty = _mask(listed, coords[row], plan, q.dtype)
        keys, values = _taken(k, runs, 2), _taken(v, runs, 2)
        out, lse = flash(blocks[row], keys, values, attn_mask=mask, scale=scale)
        yield out, lse if empty is None else lse.masked_fill(empty, -math.inf)  # the operator leaves 0


def _mask(
    listed: Sequence[int], q_coord: Tensor, plan: BlockPlan, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Return 0 for keys that are seen and -inf for others, `[.., block_q, keys]`; `None` hides nothing.

    The second result is which queries see no key at all, `[.., block_q]`, if there may be any.
    """
    asked = [entry for entry in listed if not entry & 1]
    if not asked:
        return None, None
    k_coord = _taken(plan.k_coord, _runs(asked, plan), -1)
    seen = visible(plan.kind, plan.params, plan.table, q_coord[:, None], k_coord[..., None, :])
    hides = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -math.inf)
    if len(asked) == len(listed):
        return hides, ~seen.any(-1)
    mask = hides.new_zeros((*hides.shape[:-1], sum(_sizes(listed, plan))))
    blocks = zip(mask.split(_sizes(listed, plan), -1), listed, strict=True)
    partial = [block for block, entry in blocks if not entry & 1]
    for block, hidden in zip(partial, hides.split(_sizes(asked, plan), -1), strict=True):
        block.copy_(hidden)
    return mask, None


def _sizes(listed: Sequence[int], plan: BlockPlan) -> list[int]:
    """Return how many keys each listed block has; only the last of the sequence may be short."""
    return [min(plan.block_k, plan.s_kv - (entry >> 1) * plan.block_k) for entry in listed]


def _runs(listed: Sequence[int], plan: BlockPlan) -> list[tuple[int, int]]:
    """Return where the keys of listed blocks begin and end; blocks that follow each other are one run."""
    starts: list[int] = []
    stops: list[int] = []
    for entry, size in zip(listed, _sizes(listed, plan), strict=True):
        start = (entry >> 1) * plan.block_k
        if not stops or stops[-1] != start:
            starts.append(start)
            stops.append(start)
        stops[-1] = start + size
    return list(zip(starts, stops, strict=True))


def _taken(x: Tensor, runs: Sequence[tuple[int, int]], axis: int) -> Tensor:
    """Take runs along an axis; a single one is not copied."""
    parts = [x.narrow(axis, start, stop - start) for start, stop in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)
