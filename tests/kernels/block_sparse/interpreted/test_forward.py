import pytest
import torch

from diffusers_ext.kernels.block_sparse.launch_config import Tiles
from diffusers_ext.kernels.block_sparse.triton_forward import forward
from tests.kernels.block_sparse.cases import CASES, PAD, Case, attention, tensors

HALF, SINGLE = torch.float16, torch.float32
OUT = {HALF: 2e-3, SINGLE: 1e-5}  # against fp64, inputs N(0, 1)
LSE = {HALF: 1e-5, SINGLE: 1e-5}  # fp32 in either case


def check(case: Case, dtype, out, lse, want, want_lse):
    valid = case.q_coord != PAD
    assert not out.isnan().any()
    assert (out - want)[:, valid].abs().max() < OUT[dtype]
    finite = torch.isfinite(want_lse)
    assert (lse == -torch.inf)[~finite & valid].all()
    assert (lse - want_lse)[finite & valid].abs().max() < LSE[dtype]


@pytest.mark.parametrize(
    "name, blocks, D, dtype",  # no mask depends on the precision
    [
        ("none", (32, 32), 64, HALF),
        ("disk", (32, 16), 32, SINGLE),
        ("box", (32, 64), 96, SINGLE),
        ("band", (16, 32), 64, HALF),
        ("lut", (16, 16), 128, SINGLE),
    ],
)
def test_every_mask_against_dense_attention(name, blocks, D, dtype):
    case = CASES[name]()
    q, k, v = tensors(case, 2, 1, D, dtype)
    out, lse = forward(q, k, v, case.problem(*blocks), scale=D**-0.5, with_lse=True)
    assert out.dtype == dtype and out.is_contiguous() and lse.dtype == torch.float32
    check(case, dtype, out, lse, *attention(q, k, v, case.seen, D**-0.5))


def test_tiles_smaller_than_the_blocks_of_the_plan():
    case = CASES["band"]()
    q, k, v = tensors(case, 1, 1, 32, SINGLE)
    tiles = Tiles(rows=32, columns=16, dims=32, warps=4, stages=2, precision="ieee")
    out, lse = forward(q, k, v, case.problem(64, 64), scale=0.3, with_lse=True, tiles=tiles)
    check(case, SINGLE, out, lse, *attention(q, k, v, case.seen, 0.3))


@pytest.mark.parametrize("per", ["head", "head and batch item"])
def test_plans_of_their_own(per):
    """Lists of different length, padded to one; -1 in the padding would be noticed."""
    B, H = 2, 2
    case = CASES["none"](40, 70)
    plans = H if per == "head" else B * H
    g = torch.Generator().manual_seed(2)
    keep = torch.rand(plans, 3, 5, generator=g) < 0.5
    keep[:, :, 0] = True
    full = torch.arange(5) < 4  # the last block is cut off
    lists = [[j << 1 | int(full[j]) for j in range(5) if row[j]] for plan in keep for row in plan]
    counts = torch.tensor([len(x) for x in lists]).view(plans, 3)
    row_ptr = torch.cat([torch.zeros(plans, 1, dtype=torch.long), counts.cumsum(1)], 1).int()
    col = torch.full((plans, int(row_ptr[:, -1].max())), -1, dtype=torch.int32)
    for plan in range(plans):
        entries = torch.tensor([e for row in lists[3 * plan : 3 * plan + 3] for e in row], dtype=torch.int32)
        col[plan, : len(entries)] = entries
    seen = keep.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :40, :70]
    q, k, v = tensors(case, B, H, 32, SINGLE)
    out, lse = forward(q, k, v, case.problem(16, 16, (row_ptr, col)), scale=0.2, with_lse=True)
    seen = seen.view(1 if per == "head" else B, H, 40, 70)
    check(case, SINGLE, out, lse, *attention(q, k, v, seen, 0.2))


def test_gain_and_bias_of_the_rectified_method():
    case = CASES["disk"]()
    q, k, v = tensors(case, 2, 1, 32, SINGLE)
    p = case.problem(32, 32)
    NQ = len(p.order)
    gain, bias = torch.rand(2, 1, NQ), torch.randn(2, 1, NQ, 32)
    out, lse = forward(q, k, v, p, scale=0.2, with_lse=True, gain=gain, bias=bias)
    want, want_lse = attention(q, k, v, case.seen, 0.2)
    S = len(case.q_coord)
    wide = gain.repeat_interleave(32, 2)[:, :, :S], bias.repeat_interleave(32, 2)[:, :, :S]
    want = want * wide[0].transpose(1, 2)[..., None] + wide[1].transpose(1, 2)
    check(case, SINGLE, out, lse, want, want_lse)


def test_without_log_sum_exp():
    case = CASES["none"](20, 33)
    q, k, v = tensors(case, 1, 1, 16, SINGLE)
    out, lse = forward(q, k, v, case.problem(16, 16), scale=0.25, with_lse=False)
    assert lse.numel() == 0
    assert (out - attention(q, k, v, case.seen, 0.25)[0]).abs().max() < 1e-5


def test_bfloat16_is_refused_by_the_interpreter():
    case = CASES["none"](20, 33)
    q, k, v = tensors(case, 1, 1, 16, torch.bfloat16)
    with pytest.raises(ValueError, match="float16 or float32"):
        forward(q, k, v, case.problem(16, 16), scale=0.25, with_lse=False)
