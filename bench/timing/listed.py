"""Make plans whose rows all visit the same number of blocks, all FULL or all PARTIAL, and check them.

Real plans mix both kinds of blocks, and rows of many lengths. These tell apart what each of them costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from diffusers_ext.kernels.geometry import Grid
from diffusers_ext.kernels.masks.band import Band
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.rule import Kind, Rule, no_table
from diffusers_ext.kernels.masks.visible import visible
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.form import LOOKED_UP, BlockForm
from diffusers_ext.kernels.plan.plan import BlockPlan
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from .reference_rows import row_error, sample


@dataclass(frozen=True)
class Field:
    """A field is a rule on a grid whose tokens fill all tiles, with blocks of a tile each."""

    rule: Rule
    grid: Grid
    tile: Grid | None
    block: int
    ruled: bool = True  # False: only missing and hidden keys are checked for

    def plan(self, blocks: int, full: bool, device: str) -> BlockPlan:
        """List `blocks` blocks of keys for each block of queries: its own and those that follow it.

        FULL blocks go through the kernel that checks PARTIAL ones, as in plans that have both. Without a rule
        they go through the one that checks nothing.
        """
        plan = _built(self, device)
        if full and not self.ruled:
            plan = replace(plan, form=BlockForm(checked=False))
        rows = torch.arange(plan.rows, device=device)
        columns = (rows[:, None] + torch.arange(blocks, device=device)) % plan.rows
        entries = columns.sort(1).values << 1 | int(full)
        row_ptr = torch.arange(plan.rows + 1, device=device) * blocks
        return replace(plan, row_ptr=row_ptr.int()[None], col=entries.int().flatten()[None], key=())


@cache
def _built(field: Field, device: str) -> BlockPlan:
    spec = RulePlanSpec(field.rule, field.grid, 0, field.block, field.block, field.tile, field.tile)
    plan = spec.build(device)
    if field.ruled:
        return plan
    return replace(plan, kind=Kind.NONE, params=(), table=no_table().to(device), form=LOOKED_UP)


# 32 768 tokens in 256 blocks. Rules are wide, so that few rows of a PARTIAL block are without a key.
FIELDS: Mapping[str, Field] = {
    "none": Field(Disk(96), (1, 128, 256), (1, 8, 16), 128, ruled=False),
    "disk": Field(Disk(96), (1, 128, 256), (1, 8, 16), 128),
    "box": Field(Window((16, 32, 64), (12, 24, 48)), (16, 32, 64), (2, 8, 8), 128),
    "band": Field(Band((900,) * 32, 32), (32, 32, 32), None, 128),
}
TINY: Mapping[str, Field] = {
    "none": Field(Disk(6), (1, 16, 32), (1, 4, 8), 32, ruled=False),
    "disk": Field(Disk(6), (1, 16, 32), (1, 4, 8), 32),
    "box": Field(Window((4, 8, 16), (3, 6, 12)), (4, 8, 16), (2, 4, 4), 32),
    "band": Field(Band((40,) * 8, 8), (8, 8, 8), None, 32),
}


def listed_error(q: Tensor, k: Tensor, v: Tensor, out: Tensor, plan: BlockPlan) -> float:
    """Return the error of sampled rows of `out [B, S, H, D]` that see a key, against masks from the lists.

    Rows of a PARTIAL block may be without a key, as the lists do not follow the rule.
    """
    rows = sample(plan.s_q, q.device)
    seen = _listed(plan, rows)
    some = seen.any(1)
    rows, seen = rows[some], seen[some]
    return row_error(q[:, rows], k, v, out[:, rows], seen)


def _listed(plan: BlockPlan, rows: Tensor) -> Tensor:
    """Mark the keys that some rows see: bool `[R, S]`."""
    there = torch.zeros(2, plan.rows, -(-plan.s_kv // plan.block_k), dtype=torch.bool, device=rows.device)
    counts = plan.row_ptr[0].diff().long()
    row = torch.repeat_interleave(torch.arange(plan.rows, device=rows.device), counts)
    there[(plan.col[0] & 1).long(), row, (plan.col[0] >> 1).long()] = True
    keys = torch.arange(plan.s_kv, device=rows.device) // plan.block_k
    partial, full = there[:, rows // plan.block_q][..., keys]
    rule = visible(plan.kind, plan.params, plan.table, plan.q_coord[rows, None], plan.k_coord[None])
    return full | (partial & rule)
