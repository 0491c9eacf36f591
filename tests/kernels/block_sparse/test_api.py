"""The operators on CPU tensors: schema, gradients, compilation, errors. The reference does the arithmetic."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.library import opcheck

from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.block_sparse.transpose import transpose
from diffusers_ext.kernels.masks.rule import Kind
from diffusers_ext.kernels.plan.plan import BlockPlan
from tests.kernels.block_sparse.cases import CASES, attention, tensors


def plan_of(case, BM=32, BN=16) -> BlockPlan:
    row_ptr, col = case.lists(BM, BN)
    kind = Kind[case.name.upper()]
    return BlockPlan(
        row_ptr, col, BM, BN, *case.seen.shape, case.q_coord, case.k_coord, kind, case.params, case.table,
        pairs=int(case.seen.sum()),
    )  # fmt: skip


def operands(name="box", B=2, H=2, D=32, grad=False):
    case = CASES[name]()
    q, k, v = (x.requires_grad_(grad) for x in tensors(case, B, H, D, torch.float32))
    return case, plan_of(case), q, k, v


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_against_dense_attention(name):
    case, plan, q, k, v = operands(name)
    valid = case.seen.any(1)
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out, lse = api.attention(*leaves, plan)
    want, want_lse = attention(exact[0][:, valid], *exact[1:], case.seen[valid], 32**-0.5)
    assert out.is_contiguous()
    assert (out[:, valid] - want).abs().max() < 1e-5 and (lse[:, :, valid] - want_lse).abs().max() < 1e-5
    do, dlse = torch.randn_like(want), torch.randn_like(want_lse)
    torch.autograd.backward([want, want_lse], [do, dlse])
    torch.autograd.backward([out[:, valid], lse[:, :, valid]], [do.float(), dlse.float()])
    for ours, theirs in zip(leaves, exact, strict=True):
        assert (ours.grad - theirs.grad).abs().max() < 2e-5 * theirs.grad.abs().max()


def test_autocast_casts_what_norms_left_in_two_dtypes():
    """Query and key norms leave float32 under autocast, the projection of values bfloat16."""
    _, plan, q, k, v = operands()
    want, _ = api.attention(*(x.bfloat16() for x in (q, k, v)), plan)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = api.attention(q, k, v.bfloat16(), plan)
    assert got.dtype == torch.bfloat16 and torch.equal(got, want)


def test_the_reference_on_request_where_kernels_could_run(monkeypatch):
    """It is the same operator, so graphs have no break, also with gradients and under autocast."""
    _, plan, q, k, v = operands("disk", grad=True)

    def attend(q, k, v):
        with torch.autocast("cpu", torch.bfloat16):
            return api.attention(q, k, v.bfloat16(), plan, triton=False)[0]

    def results(attend):
        return (out := attend(q, k, v)), *torch.autograd.grad(out.float().square().sum(), (q, k, v))

    wanted = results(attend)
    assert wanted[0].dtype == torch.bfloat16
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the kernels would run here, and refuse bfloat16
    torch._dynamo.reset()
    for found in results(attend), results(torch.compile(attend, fullgraph=True, backend="aot_eager")):
        for x, y in zip(found, wanted, strict=True):
            torch.testing.assert_close(x, y)


def arguments(grad, with_lse=True, gain=None, bias=None):
    _, plan, q, k, v = operands("disk", grad=grad)
    lists = plan.row_ptr, plan.col, plan.order, plan.q_coord, plan.k_coord, plan.table
    return (
        q,
        k,
        v,
        *lists,
        gain,
        bias,
        32,
        16,
        int(plan.kind),
        list(plan.params),
        plan.form.numbers,
        0.2,
        with_lse,
        True,
    )


@pytest.mark.parametrize("grad", [False, True])
def test_schema_fake_and_autograd_registration(grad):
    opcheck(api.block_sparse_forward, arguments(grad))


def test_schema_without_log_sum_exp_and_with_gain():
    NQ = len(arguments(False)[5])
    rectify = torch.rand(2, 2, NQ), torch.randn(2, 2, NQ, 32)
    tests = "test_schema", "test_faketensor"
    opcheck(api.block_sparse_forward, arguments(False, False, *rectify), test_utils=tests)


def test_compiles_in_one_graph_forward_and_backward():
    _, plan, q, k, v = operands("band", grad=True)

    def loss(q, k, v):
        out, lse = api.attention(q * 1.5, k, v, plan)
        return (out**2).sum() + lse.sum()

    torch._dynamo.reset()
    eager = torch.autograd.grad(loss(q, k, v), (q, k, v))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    again = torch.autograd.grad(compiled(q, k, v), (q, k, v))
    for x, y in zip(eager, again, strict=True):
        torch.testing.assert_close(x, y)


def test_gain_and_bias_by_block_and_no_gradient_through_them():
    _, plan, q, k, v = operands("disk")
    NQ = len(plan.order)
    gain, bias = torch.rand(2, 2, NQ), torch.randn(2, 2, NQ, 32)
    out, _ = api.attention(q, k, v, plan, 0.2, gain=gain, bias=bias)
    plain, _ = api.attention(q, k, v, plan, 0.2)
    row = 33  # in block 1
    torch.testing.assert_close(out[:, row], plain[:, row] * gain[:, :, 1, None] + bias[:, :, 1])
    with pytest.raises(NotImplementedError, match=r"torch\.no_grad"):
        api.attention(q.requires_grad_(), k, v, plan, 0.2, gain=gain, bias=bias)


def test_inputs_without_a_dense_last_axis():
    _, plan, q, k, v = operands("disk")
    swapped = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v)]
    assert swapped[0].stride(-1) != 1
    assert torch.equal(api.attention(*swapped, plan)[0], api.attention(q, k, v, plan)[0])


def test_inputs_that_do_not_fit_are_one_sentence():
    _, plan, q, k, v = operands("disk")
    for call, words in {
        lambda: api.attention(q[:, 1:], k, v, plan): "is for 125 queries",
        lambda: api.attention(q, k[:, :, :1], v[:, :, :1], plan): "repeat grouped keys",
        lambda: api.attention(q, k.half(), v, plan): "one floating-point dtype",
        lambda: api.attention(q.int(), k.int(), v.int(), plan): "one floating-point dtype",
        lambda: api.attention(q, k, v, plan.to("meta")): "one device, got cpu, cpu, cpu and meta; move",
        lambda: api.attention(q, k.to("meta"), v, plan): "one device, got cpu, meta, cpu and cpu",
        lambda: api.attention(q, k, v, replace(plan, row_ptr=plan.row_ptr.expand(3, -1))): "got 3 plans",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_transposed_lists_by_brute_force():
    g = torch.Generator().manual_seed(0)
    G, NQ, NK = 3, 5, 4
    seen = torch.rand(G, NQ, NK, generator=g) < 0.5
    seen[0, 2] = seen[1, :, 1] = False
    full = torch.rand(G, NQ, NK, generator=g) < 0.5
    nnz = int(seen.sum((1, 2)).max())
    row_ptr = torch.nn.functional.pad(seen.sum(2).cumsum(1), (1, 0)).int()
    col = torch.full((G, nnz), -1, dtype=torch.int32)
    for plan in range(G):
        entries = [j << 1 | int(full[plan, i, j]) for i, j in seen[plan].nonzero().tolist()]
        col[plan, : len(entries)] = torch.tensor(entries)
    col_ptr, row = transpose(row_ptr, col, NK)
    assert col_ptr.dtype == row.dtype == torch.int32
    for plan in range(G):
        for j in range(NK):
            found = row[plan, col_ptr[plan, j] : col_ptr[plan, j + 1]].tolist()
            assert found == [i << 1 | int(full[plan, i, j]) for i in range(NQ) if seen[plan, i, j]]


def test_import_and_cpu_run_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"  # importing it now fails
        "import torch\nfrom diffusers_ext.kernels.block_sparse import api\nfrom "
        "diffusers_ext.kernels.masks.disk import Disk\nfrom diffusers_ext.kernels.plan.spec import "
        "RulePlanSpec\nplan = RulePlanSpec(Disk(3), (1, 6, 7), block_q=16, block_k=16).build()\nx = "
        "torch.randn(1, 42, 2, 32)\nprint(api.attention(x, x, x, plan)[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([1, 42, 2, 32])"
