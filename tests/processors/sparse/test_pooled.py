"""Pooled tokens of CLEAR and proportional attention equal dense attention with explicit extra keys."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import diffusers_ext as dx
from diffusers_ext.core import RunContext
from diffusers_ext.processors.sparse import pooled
from diffusers_ext.settings.methods import build

from ... import needs
from ...close import alike as close
from ...hosts import built, host
from ...kernels import oracles
from ..masked import Instead
from ..promises import is_refused, makes_the_pictures_of
from .test_method import SITE, dense, layout_of, tensors


def cell_sums(x, grid, edge, weight):
    """`x [B, N, H, D]` summed cell by cell in plain Python."""
    _, h, w = grid
    image = x.unflatten(1, (h, w))
    cells = [
        sum(weight[u, v] * image[:, top + u, left + v] for u in range(edge) for v in range(edge))
        for top in range(0, h, edge)
        for left in range(0, w, edge)
    ]
    return torch.stack(cells, 1)


def oracle(q, k, v, layout, radius, edge, weight=None, scale=None, seen=None):
    """Dense attention over all keys and pooled ones with an explicit mask."""
    weight = torch.full((edge, edge), 1 / edge**2, dtype=q.dtype) if weight is None else weight
    mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
    mask[layout.vision, layout.vision] = oracles.disk(layout.grid, radius)
    mask = mask if seen is None else mask & seen
    more = torch.zeros(q.shape[1], math.prod(layout.grid) // edge**2, dtype=torch.bool)
    more[layout.vision] = True
    mask = torch.cat([mask, more.expand(*mask.shape[:-2], -1, -1)], -1)
    k, v = (torch.cat([x, cell_sums(x[:, layout.vision], layout.grid, edge, weight)], 1) for x in (k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


def clear(weight=None, **rest):
    method = dx.CLEAR(**{"backend": "reference", **rest})
    core = method.bind(SITE, RunContext(), dense)
    core.spatial_weight = weight
    return core


@st.composite
def cases(draw):
    """A grid of full cells, their edge, a radius, a layout, and weights or none."""
    edge = draw(st.integers(2, 5))
    grid = 1, edge * draw(st.integers(1, 4)), edge * draw(st.integers(1, 5))
    layout = layout_of(grid, draw(st.integers(0, 5)), draw(st.booleans()))
    weight = torch.randn(edge, edge, dtype=torch.float64) if draw(st.booleans()) else None
    return layout, edge, draw(st.integers(1, 6)), weight


@settings(max_examples=30, deadline=None)
@given(cases())
def test_equal_to_dense_attention_with_extra_keys(case):
    layout, edge, radius, weight = case
    q, k, v = tensors(layout)
    out = clear(radius=radius, downsample=edge, weight=weight)(q, k, v, None, layout)
    wanted = oracle(q, k, v, layout, radius, edge, weight)
    assert (out - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("text, front", [(0, False), (3, True), (3, False)])
def test_gradients_of_inputs_and_weights(text, front):
    layout = layout_of((1, 6, 9), text, front)
    weight = torch.rand(3, 3, dtype=torch.float64)
    found = []
    for ours in (True, False):
        q, k, v, w = leaves = [x.requires_grad_() for x in (*tensors(layout), weight.clone())]
        if ours:
            out = clear(radius=2, downsample=3, weight=w)(q, k, v, None, layout)
        else:
            out = oracle(q, k, v, layout, 2, 3, w)
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()  # log-sum-exps are kept in fp32


def test_one_cell_over_the_grid_keeps_what_is_constant():
    """Invariant: weights of the softmax sum to one, and the mean of a constant is that constant."""
    layout = layout_of((1, 4, 4), 0, front=False)
    q, k, _ = tensors(layout)
    v = torch.full_like(k, 0.7)
    assert (clear(radius=1, downsample=4)(q, k, v, None, layout) - 0.7).abs().max() < 1e-14


def test_a_radius_of_one_without_text_and_pooled_tokens_returns_v():
    layout = layout_of((1, 5, 7), 0, front=False)
    q, k, v = tensors(layout)
    assert torch.equal(clear(radius=1)(q, k, v, None, layout), v)


def test_the_transposed_picture_with_transposed_weights():
    layout, other = layout_of((1, 6, 9), 2, front=True), layout_of((1, 9, 6), 2, front=True)
    weight = torch.rand(3, 3, dtype=torch.float64)
    order = torch.cat([torch.arange(2), torch.arange(54).view(6, 9).T.flatten() + 2])
    q, k, v = tensors(layout)
    out = clear(radius=3, downsample=3, weight=weight)(q, k, v, None, layout)
    turned = clear(radius=3, downsample=3, weight=weight.T.contiguous())(
        q[:, order], k[:, order], v[:, order], None, other
    )
    assert (turned - out[:, order]).abs().max() < 1e-13


def test_distant_tokens_are_seen_through_pooled_tokens_alone():
    layout = layout_of((1, 8, 12), 3, front=False)
    q, k, v = tensors(layout)
    moved = k.clone()
    moved[:, 95] += 1.0  # the last image token; the first is 13 tokens away
    for edge, same in ((0, True), (4, False)):
        before, after = (clear(radius=4, downsample=edge)(q, x, v, None, layout) for x in (k, moved))
        assert torch.equal(before[:, 0], after[:, 0]) == same
        assert not torch.equal(before[:, 96:], after[:, 96:]), "text sees everything"
    weight = torch.rand(4, 4, dtype=torch.float64)
    texts = [clear(radius=4, downsample=4, weight=w)(q, k, v, None, layout)[:, 96:] for w in (None, weight)]
    assert torch.equal(*texts), "text sees no pooled token"


@pytest.mark.parametrize("text", [0, 4])
def test_proportional_attention(text):
    layout = layout_of((1, 4, 6), text, front=True)
    q, k, v = tensors(layout)
    s = 24 + text
    plain = clear(radius=2, downsample=2)(q, k, v, None, layout)
    for train in (s, s + 1, 10 * s):
        out = clear(radius=2, downsample=2, train_tokens=train)(q, k, v, None, layout)
        assert torch.equal(out, plain)
    wanted = oracle(q, k, v, layout, 2, 2, scale=math.sqrt(math.log(s, 10) / 8))
    out = clear(radius=2, downsample=2, train_tokens=10)(q, k, v, None, layout)
    assert (out - wanted).abs().max() <= 1e-12 * wanted.abs().max()
    whole = clear(radius=50, train_tokens=10)(q, k, v, None, layout)
    views = (x.transpose(1, 2) for x in (q, k, v))
    wanted = F.scaled_dot_product_attention(*views, scale=math.sqrt(math.log(s, 10) / 8)).transpose(1, 2)
    assert (whole - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_each_level_of_a_u_net_is_measured_against_its_own_length(name):
    """Trained at half the sides; a disk over the grid leaves nothing but the scale."""
    tiny = host(name)
    pipe, seen = tiny.build(), set()
    finest = dx.plan(pipe, dx.CLEAR(), **tiny.size).tokens

    def scaled(q, k, v, mask, layout):
        seen.add(s := q.shape[1])
        q = q * math.sqrt(math.log(s) / math.log(s / 4))
        return dense(q, k, v, mask, layout)

    with dx.apply(pipe, Instead(scaled)):
        wanted = tiny.run(pipe, steps=2)
    with dx.apply(pipe, dx.CLEAR(radius=50, train_tokens=finest // 4)):
        close(tiny.run(pipe, steps=2), wanted)
    assert seen == ({256, 64} if name == "sd" else {64})


def test_a_length_of_training_that_is_none_is_refused_before_the_first_step():
    pipe, began = host("sd").build(), []
    pipe.unet.conv_in.register_forward_hook(lambda *_: began.append(True))
    words = r"got 7, which leaves unet\..* fewer than 2 tokens; set 8 or more"
    with pytest.raises(dx.MethodError, match=words), dx.apply(pipe, dx.CLEAR(train_tokens=7, dense_steps=1)):
        host("sd").run(pipe, steps=2)
    assert not began
    with dx.apply(pipe, dx.CLEAR(train_tokens=8)):
        host("sd").run(pipe, steps=1)


def test_attention_among_image_tokens_is_measured_without_the_text():
    joint, alone = layout_of((1, 4, 6), 4, front=False), layout_of((1, 4, 6), 0, front=False)
    q, k, v = tensors(alone)
    run = RunContext()
    run.layout = joint
    method = dx.CLEAR(radius=50, train_tokens=14)
    out = method.bind(replace(SITE, kind="self"), run, dense)(q, k, v, None, alone)
    wanted = dense(q * math.sqrt(math.log(24) / math.log(10)), k, v, None, alone)
    assert torch.equal(out, wanted)
    short = dx.CLEAR(train_tokens=5).bind(replace(SITE, kind="self"), run, dense)
    with pytest.raises(dx.MethodError, match=r"got 5, .* set 6 or more"):
        short.begin_call(q)


def explicit(radius, edge):
    """The oracle as a method, for complete models."""
    return Instead(lambda q, k, v, mask, layout: oracle(q, k, v, layout, radius, edge, seen=mask))


@pytest.mark.parametrize("name", ["sd3", "sd3.5", "flux", "sd", "hunyuan-video"])
def test_pipelines(name):
    """HunyuanVideo makes a single frame here, and hides the padding of prompts."""
    tiny = host(name)
    call = {"num_frames": 1} if tiny.video else {}
    tiny = replace(tiny, size={"height": 32, "width": 48} if name != "sd" else tiny.size)
    method = dx.CLEAR(radius=2, downsample=2, backend="reference")
    report = makes_the_pictures_of(explicit(2, 2), method, tiny, cfg=True, prompts=2, steps=2, **call)
    assert {s.backend for s in report.sites} == {"reference"}


def test_a_disk_over_the_grid_still_adds_pooled_tokens():
    tiny, pipe = built("sd3")
    plain = tiny.run(pipe, steps=1)
    with dx.apply(pipe, dx.CLEAR(radius=50, downsample=4, backend="reference")) as session:
        assert not torch.equal(tiny.run(pipe, steps=1), plain)
    assert {s.density for s in session.report().sites} == {1 + 6 / (96 + 48)}


@pytest.mark.slow
@needs.flex
def test_flex_gives_the_same():
    layout = layout_of((1, 8, 12), 3, front=False)
    q, k, v = (x.float().requires_grad_(False) for x in tensors(layout))
    close(*(clear(radius=4, downsample=4, backend=b)(q, k, v, None, layout) for b in ("flex", "reference")))


def test_compiled_blocks_are_single_graphs_also_at_a_second_size():
    tiny = host("sd3")
    sizes = [tiny, replace(tiny, size=dict(height=48, width=64))]
    pipe = tiny.build()
    method = dx.CLEAR(radius=2, downsample=2, train_tokens=60, backend="reference")
    with dx.apply(pipe, method):
        wanted = [size.run(pipe, steps=2) for size in sizes]
    for block in pipe.transformer.transformer_blocks:
        block.compile(fullgraph=True, backend="eager")
    torch._dynamo.reset()
    with dx.apply(pipe, method):
        for size, picture in zip(sizes, wanted, strict=True):
            close(size.run(pipe, steps=2), picture)
    torch._dynamo.reset()


def test_trained_weights_go_through_a_file(tmp_path):
    """A trainer puts parameters into the cores; what it saves is what a later session loads."""
    tiny, pipe = built("flux")
    method = dx.CLEAR(radius=2, downsample=4, backend="reference")
    file = tmp_path / "far.safetensors"
    with dx.apply(pipe, method) as session:
        plain = tiny.run(pipe, steps=1)
        cores = session.cores(method)
        assert [s.path for s in cores] == [s.path for s in session.report().sites]
        pooled.write(file, cores, 4)
        for core in cores.values():
            core.spatial_weight = nn.Parameter(torch.rand(4, 4))
        trained = tiny.run(pipe, steps=1)
        assert not torch.equal(trained, plain)
    with dx.apply(pipe, replace(method, weights=str(file))):
        close(tiny.run(pipe, steps=1), plain)
    pooled.write(file, cores, 4)
    with dx.apply(pipe, replace(method, weights=str(file))):
        assert torch.equal(tiny.run(pipe, steps=1), trained)


def test_gradients_reach_the_weights_through_a_denoiser():
    from tests.tiny_models import flux

    model = flux.transformer().requires_grad_(False)
    method = dx.CLEAR(radius=2, downsample=2, backend="reference")
    with dx.apply(model, method) as session:
        weights = []
        for core in session.cores(method).values():
            core.spatial_weight = nn.Parameter(pooled.uniform(2))
            weights.append(core.spatial_weight)
        model(**flux.inputs())[0].square().mean().backward()
    assert all(w.grad.abs().max() > 0 for w in weights)


def test_cores_of_another_method_are_refused():
    session = dx.apply(host("sd3").build(), dx.CLEAR(radius=2))
    with session, pytest.raises(dx.MethodError, match=r"its own methods \(clear\), got CLEAR\(.*radius=3"):
        session.cores(dx.CLEAR(radius=3))


@pytest.mark.parametrize(
    "tensors, words",
    [
        (None, "which is none; check the path"),
        ({}, "with none for transformer.transformer_blocks.0.attn, the nearest there is nothing at all"),
        (
            {f"transformer_blocks.{i}.attn": torch.ones(4, 4) for i in (0, 2)},
            "transformer_blocks.1.attn, the nearest there is transformer_blocks",
        ),
        (
            {f"transformer_blocks.{i}.attn": torch.ones(2, 2) for i in range(3)},
            r"need weights \[4, 4\] in floating point, got \[2, 2\]",
        ),
        (
            {f"transformer_blocks.{i}.attn": torch.ones(4, 4, dtype=torch.int32) for i in range(3)},
            "got .* torch.int32",
        ),
        (b"{", "cannot be read"),
    ],
)
def test_files_that_do_not_fit(tmp_path, tensors, words):
    file = tmp_path / "far.safetensors"
    if isinstance(tensors, bytes):
        file.write_bytes(tensors)
    elif tensors is not None:
        save_file(tensors, file)
    pipe = host("sd3").build()
    before = dict(pipe.transformer.attn_processors)
    with pytest.raises(dx.MethodError, match=words):
        dx.apply(pipe, dx.CLEAR(downsample=4, weights=str(file)))
    assert pipe.transformer.attn_processors == before


@pytest.mark.parametrize(
    "values, words",
    [
        (dict(downsample=1), "2 to 64 tokens, got 1"),
        (dict(downsample=-4), "2 to 64 tokens, got -4"),
        (dict(weights="x.safetensors"), "without any; set downsample=4"),
        (dict(train_tokens=1), "2 or more, got 1"),
    ],
)
def test_bad_settings(values, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.CLEAR(**values)


def test_sizes_that_cells_do_not_fill_are_refused_with_the_nearest():
    words = "that 4 divides, got 8 x 10 tokens; the nearest are 8 x 8 and 8 x 12 tokens; choose a size"
    is_refused(dx.CLEAR(downsample=4), replace(host("sd3"), size=dict(height=32, width=40)), words, steps=1)
    with pytest.raises(dx.UnsupportedError, match=r"4 x 4 tokens\.$"):
        dx.plan(dx.Grid(1, 3, 4), dx.CLEAR(downsample=4))
    with pytest.raises(
        dx.UnsupportedError, match=r"44 x 80 and 48 x 80 tokens \(704 x 1280 and 768 x 1280 px\)\.$"
    ):
        dx.plan("flux", dx.CLEAR(downsample=4), height=720, width=1280)
    with pytest.raises(dx.UnsupportedError, match=r"are for video\.$"):
        dx.plan("wan2.1", dx.CLEAR(downsample=4))


def test_the_forecast_counts_pooled_tokens():
    near, wide = (dx.plan("flux", dx.CLEAR(radius=8, downsample=edge)) for edge in (0, 4))
    n, s = 64**2, 64**2 + 512
    assert (near.far, wide.far, wide.tokens) == (0, 256, s)
    assert wide.token_density == pytest.approx(near.token_density + n * 256 / s**2, abs=1e-12)
    visited = near.block_density * 36 * 36 + 32 * 2  # two blocks of pooled keys for each block of queries
    assert wide.block_density * 36 * 36 == pytest.approx(visited)  # over those of dense attention
    assert wide.predicted_speedup == pytest.approx(s**2 / (visited * 128**2))
    assert (wide.padded_tokens, wide.nearest["grid"]) == (0, (1, 64, 64))
    # four entries a row and coordinates more; less the order of an entire call, which pooled tokens rule out
    assert wide.memory_bytes - near.memory_bytes == 4 * (32 * 4 + 256) - 8 * n
    assert "4608 together, and 256 far ones" in str(wide)
    filled = dx.plan(dx.Grid(1, 60, 60, text=7), dx.CLEAR(radius=2, downsample=6))
    assert filled.padded_tokens == 33 * 128 - 3607  # tiles fill 64 x 64 places
    # 96 x 96 tokens have 256 cells; the 320 of 120 x 96, full tiles as well, would end in half a block
    assert dx.plan(dx.Grid(1, 120, 120), dx.CLEAR(radius=2, downsample=6)).nearest["grid"] == (1, 96, 96)


def test_densities_are_over_those_of_dense_attention():
    """Extra keys may bring them above 1, and weigh when a gain is predicted."""
    near, wide = dx.CLEAR(radius=16), dx.CLEAR(radius=16, downsample=2)
    first, second = (m.plan_spec((1, 64, 64), 512, text_rows=False) for m in (near, wide))
    assert second.stats.block_density == first.stats.block_density + 1024 / (4096 + 512)
    assert near.expect(first, "triton", "9.0") is None
    assert f"the plan visits {second.stats.block_density:.3f} of the" in wide.expect(second, "triton", "9.0")
    tiny = dx.plan(dx.Grid(1, 16, 16), dx.CLEAR(radius=50, downsample=2))
    assert (tiny.token_density, tiny.block_density) == (1.25, 1.5) and tiny.predicted_speedup < 1
    assert "visits 1.500 of the blocks" in tiny.note


def test_settings_as_text():
    words = ["downsample=4", "train_tokens=4608", "weights=far.safetensors", "radius=8"]
    assert build(["clear"], words) == (dx.CLEAR(8, 4, "far.safetensors", 4608),)
