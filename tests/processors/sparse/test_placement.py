"""A plan in place: no gathers where tokens are in plan order, and the right device and back-end."""

from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import RunContext
from diffusers_ext.processors.sparse import core as sparse_core

from ...hosts import host
from ...session.test_reorder import Count
from ..test_radial import LONG
from .test_method import SITE, dense, layout_of, tensors

RADIAL = dx.Radial(0.5, block=8, backend="reference", dense_steps=0)
GRID = (5, 3, 4)


@pytest.fixture
def gathered(monkeypatch):
    """Make every plan one whose tokens are elsewhere."""
    stock = sparse_core.place
    return lambda: monkeypatch.setattr(
        sparse_core, "place", lambda *facts: replace(stock(*facts), in_plan_order=False)
    )


def gathers(run):
    with Count() as count:
        out = run()
    return out, count.times["index_select"]


@pytest.mark.parametrize("text, front, joined", [(0, False, 0), (5, False, 0), (5, True, 2), (16, True, 0)])
@pytest.mark.parametrize("reduce", ["token", "block"])
def test_raster_order_is_read_in_place_bit_for_bit(text, front, joined, reduce, gathered):
    """Text in front is joined behind the keys, unless it fills blocks; kept blocks know no text in front."""
    layout, method = layout_of(GRID, text, front), replace(RADIAL, reduce=reduce)
    q, k, v = tensors(layout)
    core = method.bind(SITE, RunContext(), dense)
    core(q, k, v, None, layout)  # makes the plan
    with Count() as count:
        out = core(q, k, v, None, layout)
    assert count.times["index_select"] == 0
    gathered()
    other = method.bind(SITE, RunContext(), dense)
    other(q, k, v, None, layout)
    with Count() as elsewhere:
        wanted = other(q, k, v, None, layout)
    assert elsewhere.times["index_select"] == 4
    joined = joined if reduce == "token" or not front else 2
    assert count.times["cat"] - elsewhere.times["cat"] == joined
    assert torch.equal(out, wanted)
    core.run.order_note = "of some other denoiser"
    assert core.describe()["order"] == "tokens are in order already"


@pytest.mark.parametrize("name, arguments", [("wan", 4), ("hunyuan-video", 5)])
def test_videos_are_read_in_place_bit_for_bit(name, arguments, gathered):
    """Four gathers of a layer, and one of the mask that hides the padding of prompts."""
    tiny = replace(host(name), size=LONG[name])
    pipe = tiny.build()

    def run(*methods):
        with dx.apply(pipe, *methods) as session:
            tiny.run(pipe, cfg=True, prompts=2, steps=1)  # makes the plan
            before = sum(s.calls for s in session.report().sites if s.backend == "reference")
            out, count = gathers(lambda: tiny.run(pipe, cfg=True, prompts=2, steps=1))
            report = session.report()
        calls = sum(s.calls for s in report.sites if s.backend == "reference") - before
        return out, count, report, calls

    method = replace(RADIAL, decay=0.2)
    out, count, report, _ = run(method)
    assert {s.order for s in report.sites if s.backend == "reference"} == {"tokens are in order already"}
    assert count == run()[1]
    gathered()
    wanted, more, _, calls = run(method)
    assert more - count == arguments * calls > 0
    assert torch.equal(out, wanted)


def test_a_layer_on_another_device_gets_a_plan_there():
    """The layers of a model are spread over several devices; meta stands for the second."""
    layout = layout_of((1, 5, 19), 7, front=True)
    core = dx.CLEAR(3, backend="reference").bind(SITE, RunContext(), dense)
    core.run.layout = layout
    q, k, v = (x.float() for x in tensors(layout))
    core.begin_call(q)
    away = core(*(x.to("meta") for x in (q, k, v)), None, layout)
    assert away.device.type == core.last.plan.col.device.type == core.last.keys.device.type == "meta"
    core.begin_call(q)
    assert core(q, k, v, None, layout).device.type == "cpu"
    assert {place.type for _, _, place in core.ready} == {"cpu", "meta"} and len(core.run.plans) == 2


def test_the_back_end_is_that_of_the_dtype_that_comes(monkeypatch):
    """Latents may have another one than queries; the interpreter multiplies bfloat16 wrongly."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    layout = layout_of((1, 64, 64), 0, front=False)
    core = dx.CLEAR(16).bind(SITE, RunContext(), dense)
    core.run.layout = layout
    q, k, v = tensors(layout, batch=1)
    core.begin_call(q.float())
    assert core.begun_with.backend == "triton"
    core(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, layout)
    assert core.last.backend == "dense" and "takes reference" in core.last.why
    with torch.autocast("cpu", torch.bfloat16):
        core.begin_call(q.float())
    assert core.begun_with is core.last and len(core.run.plans) == 2


@pytest.mark.parametrize("backend, words", [("triton", "Triton"), ("flex", "FlexAttention")])
def test_a_named_back_end_that_cannot_run_is_refused_where_nothing_is_hidden(backend, words, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    layout = replace(layout_of((2, 3, 4), 2, front=False), masked_text=True)
    q, k, v = tensors(layout)
    for method in (replace(RADIAL, backend="auto"), replace(RADIAL, backend=backend)):
        core = method.bind(SITE, RunContext(), dense)
        if method.backend == "auto":
            assert torch.equal(core(q, k, v, None, layout), dense(q, k, v, None, layout))
            assert core.describe()["why"] == "radial hides nothing on this grid"
            continue
        with pytest.raises(dx.UnsupportedError, match=words):
            core(q, k, v, None, layout)


def test_what_does_not_fit_ends_in_a_step_that_a_command_line_has_too():
    layout = layout_of((1, 3, 4), 0, front=False)
    with pytest.raises(dx.UnsupportedError) as error:
        RADIAL.bind(SITE, RunContext(), dense)(*tensors(layout), None, layout)
    said = str(error.value)
    assert said.endswith("are for images; choose a size and settings that fit, or another method.")


def test_a_grid_beyond_what_plans_address_is_refused_by_the_method():
    layout = layout_of((1, 1, 3000), 0, False)
    core = dx.CLEAR(2, backend="reference").bind(SITE, RunContext(), dense)
    with pytest.raises(dx.UnsupportedError, match=r"clear: A plan addresses grids .* a smaller size"):
        core(*tensors(layout, batch=1), None, layout)
