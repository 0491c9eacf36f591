"""Choice and rectification on a real GPU: against double precision, and captured in a CUDA graph."""

from dataclasses import replace

import pytest
import torch

from diffusers_ext.kernels.block_sparse import reference
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec
from tests import needs
from tests.kernels.block_sparse.rectified import attend, constant_in_blocks, dense, tensors

pytestmark = needs.gpu
RATIO = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # RMS of the error over RMS
FACTS = DynamicPlanSpec((5, 17, 29), 37, (2, 8, 8), (2, 8, 8), 0.25)


def problem(dtype, seed=0, D=64):
    candidates = FACTS.build("cuda")
    return candidates, *(x.cuda() for x in tensors(candidates, H=3, D=D, dtype=dtype, seed=seed))


@pytest.mark.parametrize("dtype", RATIO, ids=str)
@pytest.mark.parametrize("D", [32, 64, 96, 128])
def test_against_double_precision(D, dtype):
    candidates, q, k, v = problem(dtype, D=D)
    out, found = attend(q, k, v, candidates, 0.3)
    plan = replace(candidates, row_ptr=found.row_ptr, col=found.col)
    rectify = {"gain": found.gain.double(), "bias": found.bias.double()}
    want, _ = reference.attention(q.double(), k.double(), v.double(), plan, **rectify)
    assert float((out - want).square().mean().sqrt() / want.square().mean().sqrt()) < RATIO[dtype]


def test_blocks_of_equal_tokens_give_dense_attention():
    candidates, q, k, v = problem(torch.float32)
    q, k = (constant_in_blocks(x.cpu(), 128, FACTS.grid_tokens).cuda() for x in (q, k))
    out, found = attend(q, k, v, candidates)
    assert (found.gain < 0.9).any() and (out - dense(q, k, v, candidates)).abs().max() < 1e-4


def test_a_cuda_graph_follows_the_data():
    """Captured with one set of tensors, replayed with another: other blocks are chosen, nothing is stale."""
    candidates, q, k, v = problem(torch.float16)
    attend(q, k, v, candidates, 0.3)  # compiles the kernel
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, _ = attend(q, k, v, candidates, 0.3)
    _, *others = problem(torch.float16, seed=1)
    for here, other in zip((q, k, v), others, strict=True):
        here.copy_(other)
    graph.replay()
    assert torch.equal(out, attend(*others, candidates, 0.3)[0])
