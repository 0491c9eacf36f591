"""The rows of CPUs against masked dense attention in fp64 and the definition, on plans of all kinds."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_ext.kernels.block_sparse import api, cpu_rows
from diffusers_ext.kernels.block_sparse.reference import attention
from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.rule import Kind
from diffusers_ext.kernels.plan.plan import BlockPlan, from_mask
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ...close import close
from . import cases
from .test_api import plan_of
from .test_hiding import PLANS, problem
from .test_reference import dense, tensors

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def on_cpu(q, k, v, plan, **rectify):
    return attention(q, k, v, plan, rows=cpu_rows.rows, **rectify)


def check(plan, inputs, **rectify):
    """Output and log-sum-exp are those of the definition in fp64, in all rows that are defined."""
    asks = plan.q_coord != PAD
    exact = {name: x.double() for name, x in rectify.items()}
    wanted, wanted_lse = attention(*(x.double() for x in inputs), plan, **exact)
    out, lse = on_cpu(*inputs, plan, **rectify)
    assert out.dtype == inputs[0].dtype and lse.dtype == torch.float32
    close(out[:, asks], wanted[:, asks])
    lse, wanted_lse = lse[:, :, asks], wanted_lse[:, :, asks]
    sees = wanted_lse > -math.inf
    assert torch.equal(lse > -math.inf, sees) and not lse.isnan().any()
    close(lse[sees], wanted_lse[sees], dtype=inputs[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize("blocks", [(32, 16), (7, 9)])
def test_every_rule_in_every_precision(name, dtype, blocks):
    case = cases.CASES[name]()
    inputs = cases.tensors(case, 2, 2, 24, dtype)
    check(plan_of(case, *blocks), inputs)
    valid = case.seen.any(1)
    wanted, _ = cases.attention(inputs[0][:, valid], *inputs[1:], case.seen[valid], 24**-0.5)
    close(on_cpu(*inputs, plan_of(case, *blocks))[0][:, valid], wanted, dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 13), st.integers(1, 5), st.integers(0, 5), st.integers(1, 9),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_sizes_that_fit_no_block(h, w, radius, text, block, tiled, text_rows):
    tile = (1, 3, 4) if tiled else None
    plan = RulePlanSpec(Disk(radius), (1, h, w), text, block, 2 * block, tile, tile, tiled, text_rows).build()
    check(plan, tensors(plan.s_q, plan.s_kv, dtype=torch.float32))


@pytest.mark.parametrize("name", PLANS)
def test_text_hidden_in_some_rows_of_a_batch(name):
    plan, seen, inputs = problem(name, heads=2)
    check(plan.hiding(seen), inputs)


@pytest.mark.parametrize("groups", [3, 6])
@pytest.mark.parametrize("rectify", [False, True])
def test_a_plan_for_every_head_or_every_row_and_head_with_gain_and_bias(groups, rectify):
    masks = torch.rand(groups, 20, 27, generator=torch.Generator().manual_seed(1)) < 0.05
    masks[0, :4] = False
    plans = [from_mask(m, 4, 4) for m in masks]
    most = max(p.col.shape[1] for p in plans)
    plan = BlockPlan(
        **{**vars(plans[0]), "row_ptr": torch.cat([p.row_ptr for p in plans])}
        | {"col": torch.cat([F.pad(p.col, (0, most - p.col.shape[1])) for p in plans])}
        | {"kind": Kind.NONE}
    )
    assert plan.row_ptr[0, 1] == 0, "a row without blocks"
    g = torch.Generator().manual_seed(2)
    both = {"gain": torch.rand(2, 3, 5, generator=g), "bias": torch.randn(2, 3, 5, 16, generator=g)}
    check(plan, tensors(20, 27, heads=3, dtype=torch.float32), **(both if rectify else {}))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_whose_first_thousand_keys_are_hidden(dtype):
    """The operator takes 512 keys at a time, and must not mix up a hidden stretch with an empty row."""
    mask = torch.ones(4, 1400, dtype=torch.bool)
    mask[1], mask[2, :1200], mask[3, 600:] = False, False, False
    plan, inputs = from_mask(mask, 4, 128), tensors(4, 1400, dtype=dtype)
    check(plan, inputs)
    out, lse = on_cpu(*inputs, plan)
    assert not out[:, 1].any() and bool((lse[:, :, 1] == -math.inf).all())
    close(out[:, [0, 2, 3]], dense(*inputs, mask)[:, [0, 2, 3]], dtype=dtype)


class Counting(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.seen[name] = self.seen.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_full_rows_have_no_mask_and_keys_in_a_row_are_not_copied():
    mask = torch.zeros(8, 40, dtype=torch.bool)
    mask[:4, 8:24] = mask[4:, :8] = mask[4:, 16:24] = True
    plan = from_mask(mask, 4, 8)
    assert bool((plan.col & 1).all())
    inputs = tensors(8, 40, dtype=torch.float32)
    with Counting() as counts:
        on_cpu(*inputs, plan)
    assert counts.seen["_scaled_dot_product_flash_attention_for_cpu"] == 2
    assert counts.seen["cat"] == 2 + 4, "keys and values of the second row, and what puts rows together"
    assert not {"lt", "where", "masked_fill", "bitwise_or"} & set(counts.seen)


def test_inference_and_training_take_these_rows_but_not_in_fp64(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    real, taken = cpu_rows.rows, []

    def spy(*args):
        taken.append(args)
        return real(*args)

    monkeypatch.setattr(cpu_rows, "rows", spy)
    case = cases.disk()
    plan = plan_of(case)
    inputs = [x.requires_grad_() for x in cases.tensors(case, 1, 2, 16, torch.float32)]
    for grad in False, True:
        with torch.set_grad_enabled(grad):
            out, _ = api.attention(*inputs, plan)
        assert taken and torch.equal(out, on_cpu(*inputs, plan)[0])
        taken.clear()
    api.attention(*(x.double() for x in inputs), plan)
    assert not taken
