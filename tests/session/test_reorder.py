"""Tokens put in order once a call: the same results as with gathers in every layer, fewer of those, and the
reasons to leave it.
"""

import functools
import inspect
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import FirstBlockCacheConfig, FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch.utils._python_dispatch import TorchDispatchMode

import diffusers_ext as dx
from diffusers_ext.core import Method, Slot
from diffusers_ext.session.reorder import ONCE

from ..close import alike as close
from ..hosts import host, nothing_changed
from ..kernels import oracles
from ..processors.masked import by_mask
from ..processors.test_rectified import computed_by
from ..tiny_models import flux, sd3

COMMON = dict(backend="reference", dense_steps=0)
CLEAR = dx.CLEAR(3, **COMMON)
GNA = dx.GNA((3, 5), **COMMON)
RECTIFIED = dx.RectifiedSparse(keep=0.3, touching=False, block=16, **COMMON)
METHODS = [CLEAR, GNA, RECTIFIED]
ORACLES = {
    "clear": by_mask(lambda grid: oracles.disk(grid, 3)),
    "gna": by_mask(lambda grid: oracles.box(grid, (1, 3, 5), (1, 1, 1))),
    "rectified": computed_by(RECTIFIED),
}
IN_LAYERS = "tokens put in order in every layer: "
by_name = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@dataclass(frozen=True)
class Looker(Method):
    """A method that sees tokens and does not say that it takes any order."""

    name = "looker"
    slots = frozenset({Slot.OBSERVE})

    def select(self, sites):
        return sites[-1:]

    def bind(self, site, run, inner):
        return lambda *call: inner(*call)


def model(**config):
    return flux.transformer(**dict(num_layers=1, num_single_layers=1) | config)


@torch.no_grad()
def run(target, call, *methods):
    """The prediction of one call, and how tokens came in order."""
    context = getattr(target, "cache_context", nullcontext)("cond")
    with dx.apply(target, *methods) as session, context:
        out = target(**call)[0]
        assert session.run.reordered is False
    (order,) = {site.order for site in session.report().sites if site.order} or {""}
    return out, order


class Count(TorchDispatchMode):
    """Counts how often operators ran, by name."""

    def __init__(self):
        super().__init__()
        self.times = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


# 8 x 32 is full tiles, 5 x 19 is not; text of 16 and 128 tokens fills blocks of some methods
@by_name
@pytest.mark.parametrize("height, width, text, batch", [(8, 32, 7, 2), (8, 32, 128, 1), (5, 19, 16, 2)])
def test_the_same_as_with_gathers(method, height, width, text, batch):
    target, call = model(), flux.inputs(batch, height=height, width=width, text=text)
    found, order = run(target, call, method)
    assert order == ONCE
    wanted, order = run(target, call, method, Looker())
    assert order == IN_LAYERS + "looker may depend on raster order"
    close(found, wanted)
    close(found, run(target, call, ORACLES[method.name])[0])


@by_name
def test_no_layer_gathers(method):
    """There are four gathers in each of five layers, or three in all; text that fills blocks is not moved."""
    target = flux.transformer()
    for text, moved in ((7, 10), (128, 0)):
        call, times = flux.inputs(height=8, width=32, text=text), []
        for methods in ([], [method], [method, Looker()]):
            with Count() as count:
                run(target, call, *methods)
            times.append(count.times)
        once, each = (found["index_select"] for found in times[1:])
        assert each - once == 20 - 3  # making the plan gathers as well, in both alike
        assert times[1]["cat"] - times[2]["cat"] == moved  # keys and values of five layers


@pytest.mark.parametrize("scope", ["image_rows", "image_block", "all"])
def test_under_guidance_in_two_calls(scope):
    """The second pass runs in the same order, and what it adds is in raster order."""
    tiny = replace(host("flux"), size=dict(height=32, width=80))
    pipe = tiny.build()
    pag = dx.SoftPAG(heads={tiny.layer: [0, 2]}, strength=0.7, scope=scope)
    outs = []
    for methods in ((RECTIFIED, pag), (RECTIFIED, pag, Looker()), (RECTIFIED,)):
        with dx.apply(pipe, *methods) as session:
            outs.append(tiny.run(pipe, cfg=True, prompts=2, steps=1))
        assert {s.order == ONCE for s in session.report().sites} == {len(methods) < 3}
    close(*outs[:2])
    assert (outs[0] - outs[2]).abs().max() > 1e-3


def test_dense_steps_are_plain_bit_for_bit_and_dense_layers_take_any_order():
    tiny = replace(host("flux"), size=dict(height=32, width=80))
    pipe = tiny.build()
    late = replace(RECTIFIED, dense_steps=1)
    plain = tiny.run(pipe, steps=1)
    with dx.apply(pipe, late) as session:
        with nothing_changed("dense_steps=1"):
            assert torch.equal(tiny.run(pipe, steps=1), plain)
        assert {s.order for s in session.report().sites} == {""}
        mixed = tiny.run(pipe, steps=2)
        assert {s.order for s in session.report().sites} == {ONCE}
    with dx.apply(pipe, late, Looker()):
        close(tiny.run(pipe, steps=2), mixed)
    some = replace(RECTIFIED, dense_layers=1)
    target, call = flux.transformer(), flux.inputs(2, height=8, width=20)
    found, order = run(target, call, some)
    assert order == ONCE
    close(found, run(target, call, some, Looker())[0])


def test_an_error_inside_leaves_no_order_behind():
    target, call = model(), flux.inputs(height=8, width=32)
    plain = run(target, call)[0]
    with torch.no_grad(), dx.apply(target, CLEAR) as session:
        with pytest.raises(RuntimeError, match="size"):
            target(**call | {"encoder_hidden_states": torch.zeros(2, 7, 32), "txt_ids": torch.zeros(3, 3)})
        assert session.run.reordered is False
    assert torch.equal(run(target, call)[0], plain)


@pytest.mark.parametrize(
    "change",
    [
        lambda call: {"img_ids": call["img_ids"][None]},  # as older pipelines have it
        lambda call: {"img_ids": call["img_ids"].bfloat16()},
        lambda call: {"joint_attention_kwargs": {"scale": 1.0}},
        lambda call: {"joint_attention_kwargs": {}, "controlnet_block_samples": None},
        lambda call: {"return_dict": True},
    ],
)
def test_calls_of_other_shapes(change):
    target, call = model(), flux.inputs(height=8, width=32)
    call |= change(call)
    found, order = run(target, call, CLEAR)
    assert order == ONCE
    close(found, run(target, call, CLEAR, Looker())[0])


@pytest.mark.parametrize(
    "method",
    [GNA, *(pytest.param(m, marks=pytest.mark.slow) for m in (CLEAR, RECTIFIED))],
    ids=lambda m: m.name,
)
def test_compiled_blocks_are_single_graphs_and_no_more_of_them(method):
    """A dense step and a sparse one, as with gathers."""
    tiny = replace(host("flux"), size=dict(height=32, width=128))
    pipe, late = flux.pipeline(num_layers=2, num_single_layers=2), replace(method, dense_steps=1)
    with dx.apply(pipe, late):
        wanted = tiny.run(pipe, steps=2)
    graphs = {}
    for stack in (pipe.transformer.transformer_blocks, pipe.transformer.single_transformer_blocks):
        for block in stack:
            block.compile(fullgraph=True, backend="eager")
    for methods in ((late,), (late, Looker())):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        with dx.apply(pipe, *methods) as session:
            close(tiny.run(pipe, steps=2), wanted)
            first = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            tiny.run(pipe, steps=3)
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == first
        assert {s.order == ONCE for s in session.report().sites} == {len(methods) == 1}
        graphs[len(methods)] = first
    assert graphs[1] <= graphs[2]
    torch._dynamo.reset()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["cpu", "group", "casting"])
def test_with_offloaded_weights(kind, when):
    tiny = replace(host("flux"), size=dict(height=32, width=80))
    pipe = tiny.build()
    with dx.apply(pipe, RECTIFIED, Looker()):
        wanted = tiny.run(pipe, steps=1)
    if when == "before":
        _offload(pipe, kind)
    with dx.apply(pipe, RECTIFIED) as session:
        if when == "after":
            _offload(pipe, kind)
        for _ in range(2):
            close(tiny.run(pipe, steps=1), wanted)
    assert {s.order for s in session.report().sites} == {ONCE}


def _offload(pipe, kind):
    cpu = torch.device("cpu")
    if kind == "cpu":
        pipe.enable_model_cpu_offload(device="cpu")
    elif kind == "group":
        weights = dict(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
        pipe.transformer.enable_group_offload(**weights)
    else:
        pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float32, compute_dtype=torch.float32)


def _residuals(target):
    return {"controlnet_block_samples": [torch.randn(1, 256, 64, generator=torch.manual_seed(0))]}


def _own_argument(target):
    return {"joint_attention_kwargs": {"masks": torch.ones(256)}}


def _foreign_processor(target):
    target.transformer_blocks[0].attn.processor = type("Local", (FluxAttnProcessor,), {})()


def _hook_of_torch(target):
    target.transformer_blocks[0].register_forward_hook(lambda *_: None)


def _cache(target):
    target.enable_cache(FirstBlockCacheConfig(threshold=0.0))


@pytest.mark.parametrize(
    "method, prepare, words",
    [
        (dx.CLEAR(3, downsample=4, **COMMON), None, "clear pools tokens by their places in the picture"),
        (CLEAR, _residuals, "controlnet_block_samples may have an entry for each token"),
        (CLEAR, _own_argument, "masks may have an entry for each token"),
        (CLEAR, _hook_of_torch, "transformer_blocks.0 has hooks (torch)"),
        (CLEAR, _cache, "transformer_blocks.0 has hooks (fbc_leader_block_hook)"),
        (replace(CLEAR, dense_layers=1), _foreign_processor, "transformer_blocks.0.attn runs Local"),
    ],
)
def test_what_may_depend_on_raster_order_gets_it(method, prepare, words):
    target, call = model(), flux.inputs(height=8, width=32)
    call |= (prepare and prepare(target)) or {}
    found, order = run(target, call, method)
    assert order == IN_LAYERS + words
    assert torch.equal(found, run(target, call, method, Looker())[0])


def test_filled_up_tiles_keep_raster_order():
    target = model()
    _, order = run(target, flux.inputs(height=7, width=32, text=40), CLEAR)
    assert order == IN_LAYERS + "clear fills up blocks that the grid cuts off"
    _, order = run(target, flux.inputs(height=9, width=17), RECTIFIED)
    assert order == IN_LAYERS + "rectified fills up blocks that the grid cuts off"


def test_tokens_that_are_in_order_are_not_moved():
    """Tiles as wide as the picture are its rows."""
    target, call = model(), flux.inputs(height=8, width=16)
    found, order = run(target, call, CLEAR)
    assert order == "tokens are in order already"
    with Count() as plain:
        run(target, call)
    with dx.apply(target, CLEAR), torch.no_grad():
        target(**call)  # which makes the plan
        with Count() as count:
            target(**call)
    assert count.times["index_select"] == plain.times["index_select"]
    close(found, run(target, call, ORACLES["clear"])[0])


def test_models_that_make_tokens_themselves():
    target = sd3.transformer(pos_embed_max_size=32)
    _, order = run(target, sd3.inputs(height=16, width=64), replace(CLEAR, radius=2))
    assert order == IN_LAYERS + "SD3Transformer2DModel makes the tokens itself"


def test_gradients_keep_raster_order():
    target, call = model(), flux.inputs(height=8, width=32)
    with dx.apply(target, CLEAR) as session:
        target(**call)
    order = {s.order for s in session.report().sites}
    assert order == {IN_LAYERS + "gradients are recorded, and blocks may run again on the way back"}


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_replaced_forward_keeps_raster_order(monkeypatch, wrapped):
    """Caches that patch the class keep tokens from step to step, and steps differ in their order."""
    stock = FluxTransformer2DModel.forward

    def forward(self, *args, **kwargs):
        return stock(self, *args, **kwargs)

    if wrapped:
        forward = functools.wraps(stock)(forward)
    else:
        forward.__signature__ = inspect.signature(stock)
    monkeypatch.setattr(FluxTransformer2DModel, "forward", forward)
    _, order = run(model(), flux.inputs(height=8, width=32), CLEAR)
    assert order == IN_LAYERS + "forward of FluxTransformer2DModel was replaced"


@dataclass(frozen=True)
class First(dx.GNA):
    """GNA in the first layer alone."""

    def select(self, sites):
        return sites[:1]


@pytest.mark.parametrize("block, same", [(128, True), (64, False)])
def test_two_methods_share_an_order_or_keep_raster_order(block, same):
    """Rectified attention over 128 tokens has the tiles of GNA."""
    target, call = model(), flux.inputs(2, height=32, width=32)
    methods = First((9, 17), **COMMON), replace(RECTIFIED, block=block, dense_layers=1)
    found, order = run(target, call, *methods)
    assert order == (ONCE if same else IN_LAYERS + "layers differ in the order that they need")
    close(found, run(target, call, *methods, Looker())[0])
