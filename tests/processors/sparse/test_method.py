"""CLEAR, GNA and Radial share schedules, fallbacks, reports, restore, and masks on random grids."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusers_ext as dx
from diffusers_ext.core import Layout, RunContext, Site
from diffusers_ext.families.denoisers import denoisers

from ... import needs
from ...close import alike as close
from ...hosts import built, every_attention, host, nothing_changed, processors
from ...kernels import oracles
from .. import masked
from ..promises import is_refused

SITE = Site("blocks.0.attn", 0, 2, 8, "joint", "transformer")


def layout_of(grid, text, front):
    n = grid[0] * grid[1] * grid[2]
    if front:
        return Layout(grid, slice(0, text), slice(text, text + n))
    return Layout(grid, slice(n, n + text), slice(0, n))


def tensors(layout, batch=2):
    s = layout.tokens + layout.text.stop - layout.text.start
    generator = torch.Generator().manual_seed(s)
    return [torch.randn(batch, s, 2, 8, generator=generator, dtype=torch.float64) for _ in range(3)]


def dense(q, k, v, mask, layout):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


@st.composite
def cases(draw):
    """A method, a grid that it fits, and the brute-force mask."""
    name = draw(st.sampled_from(["clear", "gna", "paper", "release"]))
    if name == "clear":
        grid, radius = (1, draw(st.integers(2, 19)), draw(st.integers(1, 18))), draw(st.integers(1, 6))
        return dx.CLEAR(radius=radius, backend="reference"), grid, oracles.disk(grid, radius)
    grid = draw(st.integers(2, 5)), draw(st.integers(2, 6)), draw(st.integers(1, 7))
    if name == "gna":
        window = tuple(draw(st.integers(2, n)) if n > 1 else 1 for n in grid)
        stride = tuple(draw(st.integers(1, w)) for w in window)
        method = dx.GNA(window=window, stride=stride, backend="reference", dense_steps=0)
        return method, grid, oracles.box(grid, window, stride)
    sink, block = draw(st.integers(0, 2)), draw(st.sampled_from([4, 16]))
    common = dict(sink_frames=sink, block=block, backend="reference", dense_steps=0)
    if name == "paper":
        return dx.Radial(mode="paper", **common), grid, oracles.radial_paper(grid, sink)
    return dx.Radial(decay=0.3, **common), grid, oracles.radial_release(grid, 0.3, sink, block)


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 5), st.booleans())
def test_cores_equal_masked_dense_attention(case, text, front):
    method, grid, mask = case
    layout = layout_of(grid, text, front)
    q, k, v = tensors(layout)
    out = method.bind(SITE, RunContext(), dense)(q, k, v, None, layout)
    wanted = masked.attention(q, k, v, mask, layout)
    assert (out - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("grid", [(1, 16, 32), (1, 21, 37), (5, 9, 17)])
@pytest.mark.parametrize("text, front", [(0, False), (5, True), (5, False)])
def test_kept_tiles_equal_masked_dense_attention(grid, text, front):
    if grid[0] == 1:
        tile, method, mask = (
            (1, 8, 16),
            dx.CLEAR(9, reduce="block", backend="reference"),
            oracles.disk(grid, 9),
        )
    else:
        tile, window = (2, 8, 8), (3, 8, 8)
        method = dx.GNA(window, reduce="block", backend="reference", dense_steps=0)
        mask = oracles.box(grid, window, (1, 1, 1))
    layout = layout_of(grid, text, front)
    q, k, v = tensors(layout)
    core = method.bind(SITE, RunContext(), dense)
    out = core(q, k, v, None, layout)
    wanted = masked.attention(q, k, v, oracles.whole_tiles(mask, grid, tile), layout)
    assert (out - wanted).abs().max() <= 1e-12 * wanted.abs().max()
    assert not torch.allclose(out, masked.attention(q, k, v, mask, layout)), "not the exact mask"


def test_a_dense_step_is_plain_bit_for_bit_and_counts_or_takes_a_share():
    for setting, dense_steps in ((2, {0, 1}), (0.5, {0, 1}), (0.24, {0}), (1.0, {0, 1, 2, 3}), (0, set())):
        run, method = RunContext(), dx.CLEAR(radius=2, backend="reference", dense_steps=setting)
        core = method.bind(SITE, run, dense)
        layout = layout_of((1, 6, 7), 2, front=True)
        q, k, v = tensors(layout)
        run.steps = 4
        for run.step in range(4):
            core.begin_call(q)
            same = torch.equal(core(q, k, v, None, layout), dense(q, k, v, None, layout))
            assert same == (run.step in dense_steps), (setting, run.step)


def test_all_steps_dense_is_the_plain_pipeline():
    tiny, pipe = built("sd3")
    plain = tiny.run(pipe)
    with dx.apply(pipe, dx.CLEAR(radius=1, dense_steps=1.0, backend="reference")) as session:
        with nothing_changed("dense_steps=1.0 keeps all"):
            assert torch.equal(tiny.run(pipe), plain)
        assert {s.why for s in session.report().sites} == {"dense steps so far"}


@pytest.mark.parametrize(
    "name, kept",
    [
        ("sd3", ["transformer_blocks.0.attn"]),
        ("sd3.5", ["transformer_blocks.0.attn", "transformer_blocks.0.attn2"]),
        ("sd", ["down_blocks.0.attentions.0.transformer_blocks.0.attn1"]),
        ("flux", ["transformer_blocks.0.attn"]),
        ("wan", ["blocks.0.attn1"]),
        ("wan2.2", ["blocks.0.attn1"]),
        ("hunyuan-video", ["transformer_blocks.0.attn"]),
        ("mochi", ["transformer_blocks.0.attn1"]),
    ],
)
def test_dense_layers_are_the_first_of_each_denoiser(name, kept):
    """Layers, not modules: SD3.5 has two in one."""
    tiny, pipe = built(name)
    before = {c: processors(m) for c, m in denoisers(pipe).items()}
    method = dx.GNA((2, 2, 2) if tiny.video else (2, 2), dense_steps=0)
    found = {}
    for count in (0, 1):
        with dx.apply(pipe, replace(method, dense_layers=count)):
            for component, model in denoisers(pipe).items():
                own = {n for n, p in processors(model).items() if p is before[component][n]}
                found[component, count] = own
    for component in before:
        assert found[component, 1] - found[component, 0] == set(kept)


@every_attention
def test_restore_is_exact(host):
    pipe = host.build()
    plain = host.run(pipe, cfg=True)
    method = (
        dx.Radial(mode="paper", dense_steps=1, backend="reference")
        if host.video
        else dx.CLEAR(2, backend="reference")
    )
    with dx.apply(pipe, method):
        assert not torch.equal(host.run(pipe, cfg=True), plain)
    assert torch.equal(host.run(pipe, cfg=True), plain)


def test_auto_stays_dense_where_nothing_is_to_be_gained_and_says_so_once(caplog):
    tiny, pipe = built("sd3")
    plain = tiny.run(pipe)
    with caplog.at_level(logging.WARNING, "diffusers_ext"), dx.apply(pipe, dx.CLEAR(radius=2)) as session:
        assert torch.equal(tiny.run(pipe), plain)
    assert [r.getMessage() for r in caplog.records] == [
        "clear stays dense on a grid of 1x8x12: no gain expected, the plan visits 1.000 of the blocks "
        "of dense attention, 100% of them with checks, which takes reference 5.98 times as long (as timed "
        "on a CPU)."
    ]
    for site in session.report().sites:
        assert (site.backend, site.density, site.full_share) == ("dense", 1.0, 1.0)
        assert "no gain expected" in site.why


def test_the_report_tells_backend_density_and_full_share():
    tiny, pipe = built("flux")
    with dx.apply(pipe, dx.CLEAR(radius=2, backend="reference")) as session:
        assert {s.why for s in session.report().sites} == {"not called yet"}
        tiny.run(pipe)
    report = session.report()
    pairs = int(oracles.disk((1, 8, 12), 2).sum()) + 96 * 16
    assert {s.density for s in report.sites} == {pairs / (96 * (96 + 16))}
    assert {(s.backend, s.why) for s in report.sites} == {("reference", "asked for")}
    assert "reference" in str(report) and "asked for" in str(report) and "Full blocks" in str(report)


def test_a_new_size_makes_a_new_plan():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(radius=2, backend="reference")) as session:
        tiny.run(pipe)
        first = len(session.run.plans)
        replace(tiny, size=dict(height=48, width=64)).run(pipe)
        tiny.run(pipe)
        assert (first, len(session.run.plans)) == (1, 2)


def test_sparse_attention_under_guidance():
    """SoftPAG sits on top of any core: with scale 0 it is absent, otherwise both act."""
    tiny, pipe = built("sd3")
    clear = dx.CLEAR(radius=2, backend="reference")
    with dx.apply(pipe, clear):
        sparse = tiny.run(pipe, cfg=True)
    with dx.apply(pipe, dx.SoftPAG(scale=0.0), clear):
        assert torch.equal(tiny.run(pipe, cfg=True), sparse)
    with dx.apply(pipe, dx.SoftPAG(scale=2.0), clear) as session:
        assert not torch.equal(tiny.run(pipe, cfg=True), sparse)
    assert {s.backend for s in session.report().sites} == {"reference"}


def test_a_gain_is_counted_against_dense_attention_without_padding():
    """Tiles of 2 x 8 x 8 fill a grid of 61 x 9 x 9 up to three times its size."""
    spec = dx.GNA((5, 5, 5), reduce="block").plan_spec((61, 9, 9), 0, False)
    stats = spec.stats
    dense_blocks = math.ceil(61 * 81 / 128) ** 2
    assert stats.cost == stats.visited / dense_blocks > 0.5 > 0.08 > stats.block_density
    assert "visits 0.590 of the blocks" in dx.GNA((5, 5, 5)).expect(spec, "reference", "cpu")


def test_levels_of_a_unet_tell_their_own_order():
    tiny = replace(host("sd"), size=dict(height=32, width=40))
    pipe = tiny.build()
    with dx.apply(pipe, dx.CLEAR(2, backend="reference")) as session:
        tiny.run(pipe)
    orders = {s.order.partition(":")[0] for s in session.report().sites if s.backend == "reference"}
    assert orders == {"tokens are in order already", "tokens put in order in every layer"}, orders


def test_two_ways_to_compute_one_site_conflict():
    with pytest.raises(dx.ConflictError, match="clear and gna both decide how attention is computed"):
        dx.apply(host("sd3").build(), dx.CLEAR(), dx.GNA(window=(2, 2)))


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(dense_steps=1.5), "fraction from 0.0 to 1.0, got 1.5"),
        (dict(dense_steps=-1), "got -1"),
        (dict(dense_layers=-1), "0 or more, got -1"),
        (dict(dense_layers=1.5), "CLEAR dense_layers takes a whole number, got 1.5: first layers"),
        (dict(dense_steps=True), "dense_steps takes a whole number or a number, got True"),
        (dict(dense_steps=math.nan), "got nan"),
        (dict(radius=2.5), "CLEAR radius takes a whole number, got 2.5: radius of the disk"),
        (dict(radius="8"), "got '8'"),
        (dict(radius=10**9), "1 to 2048 tokens, got 1000000000"),
        (dict(backend="cuda"), r"auto \| triton \| reference \| flex, got 'cuda'"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.CLEAR(**settings)


def test_dense_layers_beyond_the_model_leave_nothing_to_do():
    with pytest.raises(dx.MethodError, match="below the number of layers, got 9"):
        dx.apply(host("sd3").build(), dx.CLEAR(dense_layers=9))


def test_a_schedule_needs_a_pipeline():
    pipe = host("sd3").build()
    with (
        dx.apply(pipe.transformer, dx.CLEAR(dense_steps=2)),
        pytest.raises(dx.UnsupportedError, match="bare"),
    ):
        pipe.transformer(
            hidden_states=torch.zeros(1, 16, 4, 4),
            encoder_hidden_states=torch.zeros(1, 3, pipe.transformer.config.joint_attention_dim),
            pooled_projections=torch.zeros(1, pipe.transformer.config.pooled_projection_dim),
            timestep=torch.tensor([1.0]),
        )


def core(method=None):
    return (method or dx.CLEAR(2, backend="reference")).bind(SITE, RunContext(), dense)


@pytest.mark.parametrize(
    "method",
    [
        dx.CLEAR(radius=2, backend="reference"),
        dx.RectifiedSparse(keep=0.3, block=16, backend="reference", dense_steps=0),
        pytest.param(dx.CLEAR(radius=2, backend="flex"), marks=[pytest.mark.slow, needs.flex]),
    ],
    ids=lambda method: f"{method.name}-{method.backend}",
)
def test_every_back_end_follows_autocast(method, monkeypatch):
    """Norms leave float32 queries and keys there; the reference is taken also where kernels could run."""
    layout = layout_of((1, 9, 11), 2, front=False)
    q, k, v = (x.bfloat16() for x in tensors(layout))
    wanted = core(method)(q, k, v, None, layout)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with torch.autocast("cpu", torch.bfloat16):
        out = core(method)(q.float(), k.float(), v, None, layout)
    assert out.dtype == torch.bfloat16 and torch.equal(out, wanted)


@pytest.mark.slow
@needs.flex
def test_flex_gives_the_pictures_of_the_reference():
    tiny = host("sd3")
    pipe, pictures = tiny.build(), []
    for backend in ("flex", "reference"):
        with dx.apply(pipe, dx.GNA((3, 5), backend=backend, dense_steps=1)) as session:
            pictures.append(tiny.run(pipe, steps=2))
        assert {s.backend for s in session.report().sites} == {backend}
    close(*pictures)


def test_masks_sequences_without_a_grid_and_foreign_tokens_are_refused():
    layout = layout_of((1, 3, 4), 2, front=False)
    q, k, v = tensors(layout)
    with pytest.raises(dx.UnsupportedError, match="came with an attention mask"):
        core()(q, k, v, torch.ones(14, 14, dtype=torch.bool), layout)
    with pytest.raises(dx.UnsupportedError, match="expects 12 grid tokens and 2 text tokens"):
        core()(q[:, 1:], k[:, 1:], v[:, 1:], None, layout)
    line = replace(layout_of((1, 1, 14), 0, front=False), raster=False)
    with pytest.raises(dx.UnsupportedError, match="no single grid"):
        core()(q, k, v, None, line)


@needs.flex
def test_flex_cannot_hide_the_padding_of_prompts():
    method = dx.GNA((2, 2, 2), dense_steps=0, backend="flex")
    is_refused(method, host("hunyuan-video"), "cannot hide the padding of each prompt; use auto")


def test_an_unknown_grid_stays_dense():
    layout = layout_of((1, 3, 4), 2, front=False)
    q, k, v = tensors(layout)
    lost = core()
    assert torch.equal(lost(q, k, v, None, None), dense(q, k, v, None, None))
    assert lost.describe()["why"] == "the grid of these tokens is not known"


SLOWLY = [pytest.param(*case, marks=pytest.mark.slow) for case in (("flux", 2), ("hunyuan-video", 3))]


# Blocks of FLUX.1 are compiled in session/test_reorder.py.
@pytest.mark.parametrize("name, dense_and_sparse", [("sd3", 2), ("wan", 1), *SLOWLY])
def test_compiled_blocks_are_single_graphs(name, dense_and_sparse):
    """There are two kinds of steps: each kind of block that is touched costs one graph more than before."""
    tiny, pipe = built(name)
    method = dx.GNA((2, 4, 4) if tiny.video else (3, 5), dense_steps=1, backend="reference")
    with dx.apply(pipe, method):
        wanted = tiny.run(pipe, steps=4)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for stack in pipe.transformer.children():
        if isinstance(stack, torch.nn.ModuleList) and hasattr(stack[0], "attn" if name != "wan" else "attn1"):
            for block in stack:
                block.compile(fullgraph=True, backend=count)
    torch._dynamo.reset()
    tiny.run(pipe, steps=2)
    stock = len(graphs)
    torch._dynamo.reset()
    graphs.clear()
    with dx.apply(pipe, method) as session:
        tiny.run(pipe, steps=2)
        assert len(graphs) <= stock + dense_and_sparse, (len(graphs), stock)
        first = len(graphs)
        close(tiny.run(pipe, steps=4), wanted)
        assert len(graphs) == first, "a later step or run costs another graph"
    assert {s.backend for s in session.report().sites} == {"reference"}


@pytest.mark.slow
def test_sparse_blocks_of_mochi_are_single_graphs():
    """diffusers reads in each block where prompts end, which breaks graphs; sparse cores take a mask."""
    tiny, pipe = built("mochi")
    method = dx.GNA((2, 2, 2), dense_steps=0, backend="reference")
    with dx.apply(pipe, method):
        wanted = tiny.run(pipe, cfg=True)
    for block in pipe.transformer.transformer_blocks:
        block.compile(fullgraph=True, backend="eager")
    torch._dynamo.reset()
    with dx.apply(pipe, method):
        close(tiny.run(pipe, cfg=True), wanted)
    torch._dynamo.reset()
