"""RectifiedSparse on pipelines: dense where it should be, else the published rule, in every family."""

import logging
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusers_ext as dx
from diffusers_ext.core import RunContext
from diffusers_ext.settings.methods import build

from ..close import alike as close
from ..hosts import built, every_attention, host, nothing_changed
from ..kernels.block_sparse.published import Rule, attend_raster
from .masked import Instead
from .sparse.test_method import SITE, dense, layout_of, tensors

PLAIN = dict(backend="reference", dense_steps=0, block=16)


TILES = {  # of a block of 16 or 32 tokens, in pictures and in videos
    16: ((1, 4, 4), (2, 2, 4)),
    32: ((1, 4, 8), (2, 4, 4)),
}


def published(method, q, k, v, mask, layout):
    """The published rule on a pipeline's sequence, with the text that the mask leaves in each batch row."""
    tile = TILES[method.block][layout.grid[0] > 1]
    rule = Rule(layout.grid, tile, tile, method.keep, method.p_remaining, method.touching, method.first_frame)
    q_, k_, v_ = (x.double() for x in (q, k, v))
    seen = None if mask is None else mask.expand(len(q), 1, 1, -1)[:, 0, 0, layout.text]
    out = dense(q_, k_, v_, mask, layout)
    here, words = layout.vision, layout.text
    out[:, here] = attend_raster(
        rule, q_[:, here], k_[:, here], v_[:, here], k_[:, words], v_[:, words], seen
    )
    return out.to(q.dtype)


def computed_by(method):
    """The oracle as a method, for complete models."""
    return Instead(partial(published, method))


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(1, 7)), st.integers(0, 5), st.booleans(),
    st.sampled_from([(0.3, None), (None, 0.4), (0.2, 0.5), (0.25, 0.3)]), st.booleans(),
    st.sampled_from([-3.0, 0.0, 3.0]),
)  # fmt: skip
def test_cores_against_the_published_rule(grid, text, front, shares, touching, logit):
    """`logit` lifts the text over the grid, so that it holds little or nearly all."""
    method = dx.RectifiedSparse(*shares, touching=touching, **PLAIN)
    layout = layout_of(grid, text, front)
    q, k, v = tensors(layout)
    q[..., -1], k[..., -1] = q.shape[-1] ** 0.5, 0.0
    k[:, layout.text, :, -1] = logit
    out = method.bind(SITE, RunContext(), dense)(q, k, v, None, layout)
    wanted = published(method, q, k, v, None, layout)
    assert (out - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("name", ["sd3.5", "sd", "flux", "wan2.2", "hunyuan-video", "mochi"])
def test_pipelines_against_the_published_rule(name):
    tiny, pipe = built(name)
    method = dx.RectifiedSparse(keep=0.2, p_remaining=0.3, touching=False, **PLAIN | dict(block=32))
    with dx.apply(pipe, computed_by(method)):
        wanted = tiny.run(pipe, steps=2)
    with dx.apply(pipe, method) as session:
        close(tiny.run(pipe, steps=2), wanted)
    assert any(s.density < 0.9 for s in session.report().sites)


@every_attention
def test_keeping_all_is_the_plain_model_bit_for_bit(host):
    shares = (1.0, None) if host.name.startswith("sd") else (0.1, 1.0)
    pipe = host.build()
    plain = host.run(pipe, steps=2)
    method = dx.RectifiedSparse(*shares, **PLAIN)
    with dx.apply(pipe, method) as session, nothing_changed("rectified hides nothing"):
        assert torch.equal(host.run(pipe, steps=2), plain)
    assert {s.why for s in session.report().sites if s.kind != "cross"} == {
        "rectified hides nothing on this grid"
    }


@pytest.mark.parametrize(
    "name, size", [("sd3", (20, 28)), ("flux", (12, 60)), ("flux", (36, 44)), ("sd3", (64, 4))]
)
def test_awkward_sizes(name, size):
    tiny = replace(host(name), size=dict(height=size[0], width=size[1]))
    pipe = tiny.build()
    method = dx.RectifiedSparse(keep=0.3, **PLAIN)
    with dx.apply(pipe, computed_by(method)):
        wanted = tiny.run(pipe, steps=1)
    with dx.apply(pipe, method):
        close(tiny.run(pipe, steps=1), wanted)


def test_the_report_tells_the_density_that_ran():
    """With a fixed number of full blocks it is the planned one, otherwise the data add to it."""
    tiny, pipe = built("wan")
    for method, same in (
        (dx.RectifiedSparse(keep=0.25, p_remaining=None, touching=False, **PLAIN), True),
        (dx.RectifiedSparse(keep=0.25, p_remaining=0.6, touching=False, **PLAIN), False),
    ):
        planned = dx.plan(pipe, method, **tiny.size)
        with dx.apply(pipe, method) as session:
            tiny.run(pipe, steps=1)
        found = {s.density for s in session.report().sites}
        assert (found == {planned.token_density}) == same and min(found) >= planned.token_density
        assert {s.backend for s in session.report().sites} == {"reference"}
        assert {s.full_share for s in session.report().sites} == {1.0}


def test_nothing_but_the_size_is_cached():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.RectifiedSparse(keep=0.2, **PLAIN)) as session:
        tiny.run(pipe, cfg=True)
        tiny.run(pipe, cfg=True, prompts=2)
        assert len(session.run.plans) == 1


def test_short_sequences_stay_dense_and_say_so(caplog):
    tiny, pipe = built("sd3")
    plain = tiny.run(pipe)
    method = dx.RectifiedSparse(block=64, touching=False, dense_steps=0)
    with caplog.at_level(logging.WARNING, "diffusers_ext"), dx.apply(pipe, method) as session:
        assert torch.equal(tiny.run(pipe), plain)
    assert [r.getMessage() for r in caplog.records] == [
        "rectified stays dense on a grid of 1x8x12: 96 tokens are fewer than two blocks of 64, which leaves "
        "no choice."
    ]
    assert {s.density for s in session.report().sites} == {1.0}


def test_compiles_in_one_graph_whatever_the_data():
    layout, run, graphs = layout_of((1, 6, 7), 2, front=True), RunContext(), []
    core = dx.RectifiedSparse(keep=0.2, touching=False, **PLAIN).bind(SITE, run, dense)
    run.layout = layout
    q, k, v = tensors(layout)
    core.begin_call(q)

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(core, fullgraph=True, backend=count)
    for _ in range(2):
        got = compiled(q, k, v, None, layout)
        assert core.describe()["why"] == "asked for; density as planned, compiled calls are not counted"
        assert torch.equal(got, core(q, k, v, None, layout))
        assert core.describe()["why"] == "asked for"
        core.counts, q, k = None, k, q
    assert len(graphs) == 1


def test_training_is_refused():
    layout = layout_of((1, 6, 7), 2, front=True)
    q, k, v = tensors(layout)
    core = dx.RectifiedSparse(keep=0.2, touching=False, **PLAIN).bind(SITE, RunContext(), dense)
    with pytest.raises(NotImplementedError, match=r"rectified attention under torch\.no_grad"):
        core(q.requires_grad_(), k, v, None, layout)


@pytest.mark.parametrize(
    "tokens, block, tile",
    [(1, 128, (1, 8, 16)), (9, 128, (2, 8, 8)), (1, 64, (1, 8, 8)), (9, 64, (2, 4, 8)), (9, 16, (2, 2, 4))],
)
def test_tiles_hold_a_block(tokens, block, tile):
    facts = dx.RectifiedSparse(block=block).plan_spec((tokens, 9, 9))
    assert facts.q_tile == facts.k_tile == tile and math.prod(tile) == facts.block_q == block


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(keep=0.0), "keep must lie above 0 and not above 1, got 0.0"),
        (dict(keep=1.01), "got 1.01"),
        (dict(keep=math.nan), "got nan"),
        (dict(p_remaining=0.0), "p_remaining must lie above 0 and not above 1, got 0.0; 1 keeps all"),
        (dict(p_remaining=-0.1), "got -0.1"),
        (dict(keep=None, p_remaining=None), "keep, p_remaining or both, got None for both"),
        (dict(block=100), "16, 32, 64, 128 or 256 tokens, got 100"),
        (dict(block=8), "got 8"),
        (dict(backend="flex"), "chooses blocks in every call, got backend='flex'"),
        (dict(dense_steps=1.5), "fraction from 0.0 to 1.0, got 1.5"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.RectifiedSparse(**settings)


def test_settings_from_the_command_line():
    assert build(["rectified"], ["keep=null", "p_remaining=0.5"]) == (dx.RectifiedSparse(None, 0.5),)
    assert build(["rectified"], ["keep=0.1", "touching=false"]) == (dx.RectifiedSparse(0.1, touching=False),)
    with pytest.raises(ValueError, match="nearest is 'keep'"):
        build(["rectified"], ["kept=0.1"])
