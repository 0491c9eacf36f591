"""Pooled tokens of CLEAR: values and gradients against dense attention with explicit extra keys; compiled."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import diffusers_ext as dx
from bench.timing.block_checks import Call, call_error
from tests.processors.sparse.test_method import layout_of
from tests.processors.sparse.test_pooled import clear, oracle
from tests.tiny_models import flux

from .. import needs
from .devices import backend, every_device, ratio

RATIO = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # RMS of the error over RMS
# text in front or behind; pooled keys fill a part of a block, or all of it
PART, WHOLE = layout_of((1, 12, 20), 9, front=True), layout_of((1, 32, 64), 5, front=False)
CASES = [("cpu", torch.float32, PART)]
CASES += [pytest.param("cuda", dtype, layout, marks=needs.gpu) for dtype in RATIO for layout in (PART, WHOLE)]


def tensors(layout, head_dim, dtype):
    g = torch.Generator().manual_seed(0)
    s = layout.tokens + layout.text.stop - layout.text.start
    return [torch.randn(2, s, 2, head_dim, generator=g).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("device, dtype, layout", CASES, ids=lambda x: str(getattr(x, "grid", x)))
def test_values_and_gradients(device, dtype, layout):
    """Gradients reach queries, keys, values and the weights of the cells."""
    weight = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) / 8
    leaves = [x.to(device).requires_grad_() for x in (*tensors(layout, 64, dtype), weight)]
    *qkv, w = leaves
    core = clear(radius=5, downsample=4, weight=w, backend=backend(device))
    out = core(*qkv, None, layout)
    assert core.describe()["backend"] == backend(device)
    exact = [x.detach().cpu().double().requires_grad_() for x in leaves]
    want = oracle(*exact[:3], layout, 5, 4, exact[3])
    assert ratio(out, want) < RATIO[dtype]
    g = torch.randn(want.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    got = torch.autograd.grad(out, leaves, g.to(device))
    for ours, theirs in zip(got, torch.autograd.grad(want, exact, g.double()), strict=True):
        assert ratio(ours, theirs) < 3 * RATIO[dtype]


@every_device
def test_compiled_blocks_give_what_eager_ones_give(device):
    """Traced on a CPU, compiled on a GPU."""
    model = flux.transformer().to(device)
    call = {k: v.to(device) if torch.is_tensor(v) else v for k, v in flux.inputs(height=8, width=12).items()}
    method = dx.CLEAR(radius=2, downsample=4, backend=backend(device))
    torch._dynamo.reset()
    with torch.no_grad(), dx.apply(model, method) as session:
        want = model(**call)[0]
        assert {site.backend for site in session.report().sites} == {backend(device)}
        model.compile_repeated_blocks(fullgraph=True, backend="eager" if device == "cpu" else "inductor")
        assert ratio(model(**call)[0], want) < 1e-4
    torch._dynamo.reset()


@every_device
def test_weights_that_a_trainer_puts_in_are_learned(device):
    model = flux.transformer().to(device)
    call = {k: v.to(device) if torch.is_tensor(v) else v for k, v in flux.inputs(height=8, width=12).items()}
    method = dx.CLEAR(radius=2, downsample=4, backend=backend(device))
    with dx.apply(model, method) as session:
        cores = session.cores(method).values()
        for core in cores:
            core.spatial_weight = nn.Parameter(torch.full((4, 4), 1 / 16, device=device))
        model(**call)[0].square().mean().backward()
    assert all(core.spatial_weight.grad.abs().max() > 0 for core in cores)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs.gpu)])
def test_pictures_of_real_size(device, side, dtype):
    """FLUX.1 at 1024 and 4096 px: sampled rows against explicit masks."""
    layout = layout_of((1, side, side), 512, front=True)
    q, k, v = (x[:1].to(device) for x in tensors(layout, 128, dtype))
    core = clear(radius=16, downsample=4, backend="triton")
    core.site = replace(core.site, head_dim=128)
    out = core(q, k, v, None, layout)
    assert call_error(core, Call(q, k, v, None, layout, out)) < RATIO[dtype]
