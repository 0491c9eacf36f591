"""NAG beside SoftPAG, sparse attention, searches, gradients and skip-layer guidance."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.sampling.gate import Gate
from diffusers_ext.sampling.host_call import HostCall

from ..close import alike
from ..hosts import built
from ..tiny_models import flux
from . import settings_oracles as told
from .test_nag import TEXT, takers


@takers
def test_works_beside_softpag_whose_pass_has_the_second_text_too(host):
    """Guidance is linear: what it adds is the difference of two predictions under NAG."""
    pipe, nag, pag = host.build(), dx.NAG("green"), dx.SoftPAG(heads={host.layer: None}, strength=1.0)
    runs = {}
    for name, methods in {"nag": [nag], "both": [nag, pag], "turned": [pag, nag], "pag": [pag]}.items():
        with dx.apply(pipe, *methods) as session:
            runs[name] = host.run(pipe, cfg=True)
        assert session.report().extra_passes == (3 if pag in methods else 0)
    alike(runs["turned"], runs["both"])  # whatever order they are given in
    assert all((runs["both"] - runs[one]).abs().max() > 1e-3 for one in ("nag", "pag"))


@pytest.mark.parametrize(
    "name, sparse",
    [
        ("flux", dx.CLEAR(radius=2, dense_steps=0, backend="reference")),
        ("flux", dx.GNA(window=(3, 3), dense_steps=0, backend="reference")),
        ("sd3.5", dx.CLEAR(radius=2, dense_steps=0, backend="reference")),
        ("wan2.2", dx.Radial(mode="paper", sink_frames=0, dense_steps=0, backend="reference")),
        ("wan", dx.RectifiedSparse(keep=0.5, p_remaining=None, block=16, dense_steps=0, backend="reference")),
        ("sd", dx.CLEAR(radius=2, dense_steps=0, backend="reference")),
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_works_beside_sparse_cores(name, sparse):
    """The order of the two does not matter, and both act."""
    host, pipe = built(name)
    nag, runs = dx.NAG("green"), {}
    for label, methods in {
        "nag": [nag],
        "sparse": [sparse],
        "both": [nag, sparse],
        "turned": [sparse, nag],
    }.items():
        with dx.apply(pipe, *methods) as session:
            runs[label] = host.run(pipe, cfg=True)
        if sparse in methods:
            assert any(s.density < 1 for s in session.report().sites)
    alike(runs["turned"], runs["both"])
    assert all((runs["both"] - runs[one]).abs().max() > 1e-4 for one in ("nag", "sparse"))


@torch.no_grad()
def test_beside_a_sparse_core_each_text_has_the_tokens_that_the_rule_shows():
    """CLEAR written out by masks, under NAG; tokens are reordered once a call."""
    pipe, call = flux.pipeline(), flux.inputs(1, height=16, width=20, text=TEXT)
    nag, model = dx.NAG("green", scale=7.0, alpha=0.5), pipe.transformer
    with dx.apply(pipe, told.clear((1, 16, 20), TEXT, None, dict(radius=2)), nag):
        wanted = model(**call)[0]
    with dx.apply(pipe, dx.CLEAR(radius=2, dense_steps=0, backend="reference"), nag) as session:
        alike(model(**call)[0], wanted)
    assert {s.order for s in session.report().sites} == {"tokens put in order once a call"}


@takers
def test_groups_of_a_search_are_the_rows_of_the_full_batch(host):
    pipe = host.build()
    asked = host.size | host.extra | host.guided | {"num_inference_steps": 2}

    def run(size):
        call, gate = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **asked), Gate(3, size)
        with torch.no_grad(), gate.on(call.pipe):
            return call.run(call.draw(3)), gate.evaluations

    with dx.apply(pipe, dx.NAG("green")):
        (wanted, spent), (found, same) = run(None), run(1)
    alike(found, wanted)
    assert spent == same == 3 * 2 * 2  # a second text is no evaluation


def test_gradients_reach_the_noise():
    host, pipe = built("flux")
    call = HostCall(pipe, "a red circle", **host.size, **host.extra, num_inference_steps=1)
    start = call.draw(1)
    noise = start.noise.clone().requires_grad_()
    with dx.apply(pipe, dx.NAG("green")):
        call.run(start.with_noise(noise), grad=True).square().sum().backward()
    assert noise.grad.abs().max() > 0 and noise.grad.isfinite().all()


def test_skip_layer_guidance_has_conditional_rows_alone():
    host, pipe = built("sd3")
    skip = dict(skip_guidance_layers=[1], skip_layer_guidance_scale=2.0)
    skip |= dict(skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0)
    plain = host.run(pipe, cfg=True, **skip)
    with dx.apply(pipe, dx.NAG("a red circle")) as session:
        alike(host.run(pipe, cfg=True, **skip), plain)
    assert session.report().second_texts == session.report().denoiser_calls > 3
