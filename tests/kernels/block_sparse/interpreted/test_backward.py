import pytest
import torch

from diffusers_ext.kernels.block_sparse.launch_config import Tiles
from diffusers_ext.kernels.block_sparse.triton_backward import backward
from diffusers_ext.kernels.block_sparse.triton_forward import forward
from tests.kernels.block_sparse.cases import CASES, PAD, attention, tensors

HALF, SINGLE = torch.float16, torch.float32
TOLERANCE = {HALF: 4e-3, SINGLE: 5e-6}  # of the largest gradient


def compare(case, B, H, D, dtype, problem, scale, tiles=None):
    """Gradients of a random scalar of the output and the log-sum-exp, against autograd through dense fp64."""
    q, k, v = tensors(case, B, H, D, dtype)
    g = torch.Generator().manual_seed(3)
    valid = (case.q_coord != PAD)[None, :, None]
    do = torch.randn(q.shape, generator=g).to(dtype) * valid[..., None]  # no test reads what padding computes
    out, lse = forward(q, k, v, problem, scale=scale, with_lse=True)
    finite = case.seen.any(1) & (case.q_coord != PAD)
    dlse = torch.randn(lse.shape, generator=g) * finite
    got = backward(do, dlse, q, k, v, out, lse, problem, scale=scale, tiles=tiles)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    rows = finite.nonzero().flatten()
    want_out, want_lse = attention(*(exact[0][:, rows], *exact[1:]), case.seen[rows], scale)
    torch.autograd.backward([want_out, want_lse], [do.double()[:, rows], dlse.double()[:, :, rows]])
    for x, y in zip(got, exact, strict=True):
        assert x.dtype == dtype and x.is_contiguous() and not x.isnan().any()
        assert (x - y.grad).abs().max() < TOLERANCE[dtype] * y.grad.abs().max()
    return got


@pytest.mark.parametrize(
    "name, blocks, D, dtype",  # no mask depends on the precision
    [
        ("none", (32, 32), 64, HALF),
        ("disk", (32, 16), 32, SINGLE),
        ("box", (64, 64), 96, SINGLE),
        ("band", (32, 64), 64, HALF),
        ("lut", (16, 16), 128, SINGLE),
    ],
)
def test_every_mask_against_autograd(name, blocks, D, dtype):
    case = CASES[name]()
    compare(case, 2, 1, D, dtype, case.problem(*blocks), D**-0.5)


def test_tiles_smaller_than_the_blocks_of_the_plan():
    case = CASES["disk"]()
    tiles = Tiles(rows=16, columns=32, dims=32, warps=4, stages=1, precision="ieee")
    compare(case, 1, 2, 32, SINGLE, case.problem(64, 64), 0.3, tiles)


def test_keys_that_nobody_visits_and_same_bits_twice():
    case = CASES["none"](40, 70)
    row_ptr, col = case.lists(16, 16)
    keep = (col[0] >> 1) != 2
    case.seen[:, 32:48] = False
    counts = torch.stack([keep[a:b].sum() for a, b in zip(row_ptr[0], row_ptr[0, 1:], strict=False)])
    row_ptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])[None].int()
    problem = case.problem(16, 16, (row_ptr, col[:, keep]))
    first, again = (compare(case, 1, 3, 32, HALF, problem, 0.2) for _ in range(2))
    assert not first[1][:, 32:48].any() and not first[2][:, 32:48].any()
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
