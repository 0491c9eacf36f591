"""Sessions: parity of complete pipelines, exact restore whatever happens, the order of slots, reports."""

import gc
import weakref
from itertools import permutations

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module

import diffusers_ext as dx
from diffusers_ext.core import Method, Slot
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.session.checks import session_of
from diffusers_ext.session.report import pattern

from ..hosts import built, every_host, host, processors
from ..tiny_models import flux, sd3


def state_of(pipe):
    """Everything apply() may touch: processor objects, forward attributes, hook registries."""
    return {
        name: (processors(m), vars(m).get("forward"), getattr(m, "_diffusers_hook", None) is None)
        for name, m in denoisers(pipe).items()
    }


def same_state(one, two):
    return one.keys() == two.keys() and all(
        one[n][0].keys() == two[n][0].keys()
        and all(one[n][0][p] is two[n][0][p] for p in one[n][0])
        and one[n][1:] == two[n][1:]
        for n in one
    )


@every_host
@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_no_method_changes_no_bit(host, cfg):
    pipe = host.build()
    stock = host.run(pipe, cfg=cfg, prompts=2)
    with dx.apply(pipe) as session:
        ours = host.run(pipe, cfg=cfg, prompts=2)
    assert torch.equal(stock, ours)
    assert all(site.calls > 0 for site in session.report().sites)


@every_host
def test_restores_the_same_objects(host):
    pipe = host.build()
    stock, before = host.run(pipe), state_of(pipe)
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None})):
        assert not same_state(before, state_of(pipe))
        guided = host.run(pipe)
    assert not torch.equal(stock, guided)
    assert same_state(before, state_of(pipe))
    assert torch.equal(stock, host.run(pipe))


def test_restores_after_an_exception_inside_the_pipeline():
    h, pipe = built("flux")
    stock, before = h.run(pipe), state_of(pipe)

    def fail(*_):
        raise ZeroDivisionError("in the middle of a run")

    with pytest.raises(ZeroDivisionError), dx.apply(pipe, dx.SoftPAG()):
        h.run(pipe, callback_on_step_end=fail)
    assert same_state(before, state_of(pipe))
    assert torch.equal(stock, h.run(pipe))


def test_close_twice_is_harmless():
    pipe = host("sd3").build()
    before = state_of(pipe)
    session = dx.apply(pipe, dx.SoftPAG())
    session.close()
    session.close()
    assert same_state(before, state_of(pipe))


def test_a_processor_swapped_meanwhile_is_left_and_named():
    model = sd3.transformer()
    session = dx.apply(
        model, dx.SoftPAG(heads={"transformer_blocks.0.attn": None, "transformer_blocks.1.attn": None})
    )
    theirs = type(processors(sd3.transformer())["transformer_blocks.0.attn"])()
    model.transformer_blocks[0].attn.set_processor(theirs)
    with pytest.warns(UserWarning, match=r"transformer_blocks\.0\.attn were replaced by someone else"):
        session.close()
    assert model.transformer_blocks[0].attn.processor is theirs
    assert type(model.transformer_blocks[1].attn.processor) is type(theirs)


@pytest.mark.parametrize("when", ["before", "after"])
def test_restores_around_an_accelerate_offload_hook(when):
    model, call = flux.transformer(), flux.inputs()
    stock = model(**call)[0]
    if when == "before":
        cpu_offload_with_hook(model, "cpu")
    session = dx.apply(model, dx.SoftPAG())
    if when == "after":
        cpu_offload_with_hook(model, "cpu")
    assert not torch.equal(stock, model(**call)[0])
    session.close()
    assert torch.equal(stock, model(**call)[0])
    assert session_of(model) is None
    remove_hook_from_module(model)
    assert torch.equal(stock, model(**call)[0])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["sd3", "flux", "sd"])
def test_every_image_of_an_offloaded_pipeline_is_guided(name, when):
    """Pipelines take offload hooks off and on again around each call, and once lost our hook on the way."""
    h, pipe = built(name)
    stock = h.run(pipe)
    if when == "before":
        pipe.enable_model_cpu_offload(device="cpu")
    session = dx.apply(pipe, dx.SoftPAG(heads={h.layer: None}))
    if when == "after":
        pipe.enable_model_cpu_offload(device="cpu")
    first, second = h.run(pipe), h.run(pipe)
    assert torch.equal(first, second) and not torch.equal(first, stock)
    session.close()
    assert session.report().extra_passes == 6
    assert torch.equal(stock, h.run(pipe))
    pipe.remove_all_hooks()
    assert torch.equal(stock, h.run(pipe))


@pytest.mark.parametrize("when", ["before", "after"])
def test_restores_around_group_offload(when):
    model, call = flux.transformer(), flux.inputs()
    stock, before = model(**call)[0], processors(model)
    offload = dict(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    if when == "before":
        model.enable_group_offload(**offload)
    session = dx.apply(model, dx.SoftPAG())
    if when == "after":
        model.enable_group_offload(**offload)
    assert not torch.equal(stock, model(**call)[0])
    session.close()
    assert torch.equal(stock, model(**call)[0])
    assert processors(model) == before


def test_forward_replaced_for_good_is_named():
    model = flux.transformer()
    session = dx.apply(model, dx.SoftPAG())
    model.forward = theirs = lambda **_: None
    with pytest.warns(UserWarning, match="forward was replaced after apply"):
        session.close()
    assert model.forward is theirs


def test_a_lost_hook_is_named():
    model, call = flux.transformer(), flux.inputs()
    session = dx.apply(model, dx.SoftPAG())
    model.forward = type(model).forward.__get__(model)
    model(**call)
    with pytest.warns(UserWarning, match="guidance did not run"):
        session.close()


def test_a_closed_session_leaves_nothing_alive():
    model = sd3.transformer()
    session = dx.apply(model, dx.SoftPAG())
    model(**sd3.inputs(1))
    dead = weakref.ref(session)
    session.close()
    del session
    gc.collect()
    assert dead() is None


def test_inputs_act_before_the_core_and_outputs_after_it_in_any_order():
    """Toy methods of three slots: the result must be that of `output(core(inputs))`."""

    class Toy(Method):
        def __init__(self, slot, wrap):
            self.name, self.slots, self.wrap = slot.value, frozenset({slot}), wrap

        def select(self, sites):
            return [s for s in sites if s.name == "transformer_blocks.0.attn"]

        def bind(self, site, run, inner):
            return self.wrap(inner)

    doubled = Toy(Slot.INPUTS, lambda inner: lambda q, k, v, m, layout: inner(q, k, 2 * v, m, layout))
    values = Toy(Slot.CORE, lambda inner: lambda q, k, v, m, layout: v + 1)
    tenfold = Toy(Slot.OUTPUT, lambda inner: lambda q, k, v, m, layout: 10 * inner(q, k, v, m, layout))
    seen = []
    end = Toy(Slot.OBSERVE, lambda inner: lambda *a: seen.append((a[2], out := inner(*a))) or out)
    model = sd3.transformer()
    for order in permutations([doubled, values, tenfold]):
        with dx.apply(model, *order, end):
            model(**sd3.inputs(1))
        v, out = seen.pop()
        assert torch.equal(out, 10 * (2 * v + 1))


def test_summary_shows_sites_heads_and_what_is_applied():
    pipe = host("wan2.2").build()
    text = str(dx.summary(pipe))
    assert "transformer_2 is a WanTransformer3DModel (family wan) with 4 attention modules." in text
    assert "Module          Kind   Heads  Channels a head\nblocks.0.attn1  self   4      16\n" in text
    assert text.count("Methods in force: none.") == 2
    with dx.apply(pipe, dx.SoftPAG(scale=2.5)):
        assert str(dx.summary(pipe)).count("scale=2.5") == 2
    assert str(dx.summary(pipe)) == text


def test_report_counts_passes_and_reads_after_close():
    h, pipe = built("sd3")
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: [0, 1]})) as session:
        h.run(pipe, cfg=True, steps=4)
    report = session.report()
    assert (report.denoiser_calls, report.extra_passes) == (4, 4)
    assert [s.path for s in report.sites] == [f"transformer.{h.layer}"] and report.sites[0].calls == 8
    assert report.to_dict()["methods"][0]["heads"] == {h.layer: [0, 1]}
    first, second, ran, heads, row = str(report).splitlines()
    assert first.startswith("Methods: SoftPAG(heads=")
    assert second.startswith(
        "The pipeline called the denoiser 4 times; guidance added 4 extra passes, which took "
    )
    assert ran == "softpag ran in 1 of 3 joint attention modules at steps 1 to 4 of 4."
    assert heads.split() == ["Modules", "Count", "Kind", "Heads", "Methods", "Calls"]
    assert row.split() == [f"transformer.{h.layer}", "1", "joint", "4", "softpag", "8"]


def test_report_gives_each_reason_once_and_alike_modules_a_line():
    pipe = host("sd3").build()
    with dx.apply(pipe, dx.CLEAR(2)) as session:
        _, _, ran, _, row, note = str(session.report()).splitlines()
    assert ran == "clear has not run yet." and note == "(1) dense: not called yet."
    assert row.split()[:3] == ["transformer.transformer_blocks.*.attn", "3", "joint"] and row.endswith(" (1)")


@pytest.mark.parametrize(
    "paths, wanted",
    [
        (["a.0.b.attn1"], "a.0.b.attn1"),
        (["a.0.attn1", "a.1.attn1", "a.2.attn1"], "a.*.attn1"),
        (["u.down.0.x.1.attn2", "u.mid.x.1.attn2"], "u.*.x.1.attn2"),
        (["a.0", "b.1"], "*"),
        (["a.b", "a.b.c"], "a.*"),
    ],
)
def test_patterns_of_modules(paths, wanted):
    assert pattern(paths) == wanted


def test_report_counts_both_denoisers():
    h, pipe = built("wan2.2")
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None})) as session:
        h.run(pipe, cfg=True, steps=3)
    report = session.report()
    assert (report.denoiser_calls, report.extra_passes) == (6, 3)
    calls = {site.path: site.calls for site in report.sites}  # three a step, one of them perturbed
    assert sum(calls.values()) == 9 and all(calls[f"{c}.{h.layer}"] for c in ("transformer", "transformer_2"))


def test_seconds_of_calls_and_of_extra_passes_are_separate():
    h, pipe = built("sd3")
    with dx.apply(pipe) as session:
        h.run(pipe, steps=1)
    assert session.report().extra_seconds == 0 < session.report().seconds
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None})) as session:
        h.run(pipe, steps=1)
    assert 0 < session.report().extra_seconds != session.report().seconds > 0
