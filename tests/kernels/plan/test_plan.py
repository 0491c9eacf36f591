"""Plans: shapes and counts, the order of launch, and any mask as a plan."""

import torch

from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.rule import Kind
from diffusers_ext.kernels.masks.visible import visible
from diffusers_ext.kernels.plan.plan import from_mask
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from .. import oracles


def test_facts_of_a_plan():
    plan = RulePlanSpec(Disk(2), (1, 4, 6), text=3, block_q=8, block_k=4).build()
    assert (plan.s_q, plan.s_kv, plan.rows) == (27, 27, 4)
    assert plan.row_ptr.dtype == plan.col.dtype == plan.q_coord.dtype == plan.order.dtype == torch.int32
    assert plan.row_ptr.shape == (1, 5) and plan.col.shape == (1, plan.visited)
    assert plan.token_density == plan.pairs / 27**2
    assert 0 < plan.full_share < 1
    columns = [plan.col[0, a:b].tolist() for a, b in zip(plan.row_ptr[0], plan.row_ptr[0, 1:], strict=False)]
    assert all(row == sorted(row) for row in columns)
    assert plan.to("meta").col.device.type == "meta"
    assert plan.bytes == 4 * (5 + plan.visited + 27 + 27)


def test_launch_order_puts_the_longest_rows_first():
    plan = RulePlanSpec(Disk(3), (1, 24, 24), text=40, block_q=16, block_k=16).build()
    counts = plan.row_ptr.diff(dim=1)[0][plan.order.long()] // 8
    assert torch.equal(counts, counts.sort(descending=True).values)
    assert torch.equal(plan.order.sort().values, torch.arange(plan.rows, dtype=torch.int32))


def test_any_mask_can_be_a_plan():
    mask = torch.rand(37, 29, generator=torch.Generator().manual_seed(0)) < 0.1
    mask[:16, 8:16] = True
    mask[:, 28] = True
    plan = from_mask(mask, 16, 8)
    touched, full = oracles.blocks(mask, torch.ones(37, dtype=torch.bool), 16, 8)
    assert plan.kind == Kind.LUT
    assert torch.equal(oracles.listed(plan)[0], touched) and torch.equal(oracles.listed(plan)[1], full)
    seen = visible(plan.kind, plan.params, plan.table, plan.q_coord[:, None], plan.k_coord[None])
    assert torch.equal(seen, mask) and plan.pairs == int(mask.sum())
