"""When and how sessions end: refused half-way, inside a call, twice, nested, in any order, beside a back-end
that the user chose.
"""

import copy
import io
import pickle
import warnings

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import XFormersAttnProcessor
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

import diffusers_ext as dx
from diffusers_ext.families.denoisers import denoisers

from .. import faults
from ..families.parity import keeping_default_backend
from ..hosts import built, host, processors
from ..tiny_models import flux, sd3, wan
from .test_over_time import every_case, softpag, sparse
from .test_session import same_state, state_of

LOCAL = type("Local", (WanAttnProcessor,), {})  # a class that no family reproduces


def _foreign(model):
    """In the last layer, so that everything before it has been swapped when the refusal comes."""
    model.blocks[-1].attn1.processor = LOCAL()


def _compiled(model):
    model.compile(backend="eager")


def _session(model):
    dx.apply(model)


@pytest.mark.parametrize("refused", [_foreign, _compiled, _session])
@pytest.mark.parametrize("which", ["transformer", "transformer_2"])
def test_a_refused_denoiser_leaves_the_other_as_it_was(refused, which):
    case = host("wan2.2")
    pipe, run = case.build(), dict(cfg=True, steps=3)
    plain = case.run(pipe, **run)
    refused(getattr(pipe, which))
    before, hooks = state_of(pipe), [dict(vars(m)) for m in (pipe.transformer, pipe.transformer_2)]
    with pytest.raises(dx.MethodError):
        dx.apply(pipe, dx.GNA((2, 2, 2), backend="reference"), dx.SoftPAG(heads={"blocks.0.attn1": None}))
    assert same_state(before, state_of(pipe))
    assert [dict(vars(m)) for m in (pipe.transformer, pipe.transformer_2)] == hooks
    if refused is not _compiled:
        assert torch.equal(case.run(pipe, **run), plain)


def test_a_refusal_in_the_middle_of_one_denoiser_restores_its_first_layers():
    """Fused image-only attention has no processor of ours; that is found after the joint one."""
    model = sd3.transformer(dual_attention_layers=(1,))
    model.fuse_qkv_projections()
    before, attributes = processors(model), dict(vars(model))
    with pytest.raises(dx.UnsupportedError, match="unfuse_qkv_projections"):
        dx.apply(model)
    assert processors(model) == before and dict(vars(model)) == attributes


def test_xformers_is_refused_by_name():
    model = host("sd").build().unet
    model.mid_block.attentions[0].transformer_blocks[0].attn1.processor = XFormersAttnProcessor()
    before = processors(model)
    with pytest.raises(dx.UnsupportedError, match=r"run XFormersAttnProcessor.*undo what installed it"):
        dx.apply(model, dx.SoftPAG())
    assert processors(model) == before


@every_case
def test_closing_between_two_steps_is_the_end_of_the_methods(case):
    """The rest of the run is without methods, and equals a window that ends there."""
    pipe = case.build()
    run = dict(cfg=True, steps=4)
    plain, before = case.run(pipe, **run), state_of(pipe)
    with dx.apply(pipe, softpag(case, stop=0.5)):
        wanted = case.run(pipe, **run)
    session, steps = dx.apply(pipe, softpag(case)), []

    def close(pipe, step, timestep, tensors):
        steps.append(step)
        if len(steps) == 2:
            session.close()
        return tensors

    assert torch.equal(case.run(pipe, **run, callback_on_step_end=close), wanted)
    assert not torch.equal(wanted, plain) and session.report().extra_passes == 2
    assert same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, **run), plain)


@pytest.mark.parametrize("visit", [0, 1], ids=["first pass", "perturbed pass"])
@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "wan", "hunyuan-video", "mochi"])
def test_closing_inside_a_pass_leaves_nothing_behind(name, visit):
    case, pipe = built(name)
    calls = []
    with faults.in_modules(faults.layers(case, pipe), lambda: calls.append(0)):
        plain = case.run(pipe, cfg=True)
    before = state_of(pipe)
    session, visits = dx.apply(pipe, softpag(case), sparse(case)), []

    def close():
        visits.append(0)
        if len(visits) == visit + 1:
            session.close()

    with faults.in_modules(faults.layers(case, pipe), close):
        case.run(pipe, cfg=True)
    assert len(visits) == len(calls) + visit, "a perturbed pass began after the session was closed"
    assert same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, cfg=True), plain)


def test_a_session_may_be_entered_and_closed_more_than_once():
    case, pipe = built("sd3")
    plain, before = case.run(pipe, steps=1), state_of(pipe)
    with dx.apply(pipe, softpag(case)) as session:
        with session:
            assert not torch.equal(case.run(pipe, steps=1), plain)
        assert same_state(before, state_of(pipe))
        assert torch.equal(case.run(pipe, steps=1), plain)
        with dx.apply(pipe, softpag(case)):
            session.close()  # of the first: the second goes on
            assert not torch.equal(case.run(pipe, steps=1), plain)
    assert same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, steps=1), plain)


@pytest.mark.parametrize("first", [0, 1])
def test_two_sessions_of_one_pipeline_close_in_any_order(first):
    case = host("wan2.2")
    pipe, run = case.build(), dict(cfg=True, steps=3)
    plain, before = case.run(pipe, **run), state_of(pipe)
    method = dx.GNA((2, 2, 2), dense_steps=0, backend="reference")
    with dx.apply(pipe, method):
        both = case.run(pipe, **run)
    sessions = [dx.apply(pipe.transformer, method), dx.apply(pipe.transformer_2, method)]
    assert torch.equal(case.run(pipe, **run), both)
    sessions[first].close()
    assert not torch.equal(case.run(pipe, **run), both)
    sessions[1 - first].close()
    assert same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, **run), plain)


@pytest.mark.parametrize("tiny", [flux, wan], ids=["flux", "wan"])
def test_a_back_end_chosen_before_is_used_and_stays(tiny):
    model, call = tiny.transformer(), tiny.inputs(2)
    native = model(**call)[0]
    with keeping_default_backend():
        model.set_attention_backend("_native_math")
    chosen = model(**call)[0]
    assert not torch.equal(chosen, native)  # there is something to notice
    with dx.apply(model):
        assert torch.equal(model(**call)[0], chosen)
    assert {p._attention_backend for p in processors(model).values()} == {AttentionBackendName._NATIVE_MATH}
    assert torch.equal(model(**call)[0], chosen)


@pytest.mark.parametrize("tiny", [flux, wan], ids=["flux", "wan"])
def test_a_back_end_chosen_under_a_session_outlives_it(tiny):
    """The user's choice of a back-end holds for all layers, as if there had been no session."""
    model, call = tiny.transformer(), tiny.inputs(2)
    name = next(iter(processors(model)))
    with dx.apply(model, dx.SoftPAG(heads={name: None}, scale=0.0)), keeping_default_backend():
        model.set_attention_backend("_native_math")
        chosen = model(**call)[0]
    assert {p._attention_backend for p in processors(model).values()} == {AttentionBackendName._NATIVE_MATH}
    assert torch.equal(model(**call)[0], chosen)


@every_case
def test_a_session_that_went_well_closes_in_silence(case):
    """Also one that never ran, one without methods and one whose methods have nothing to do."""
    pipe = case.build()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "diffusers_ext")
        for methods in ([softpag(case)], [softpag(case, scale=0.0), sparse(case)], []):
            with dx.apply(pipe, *methods):
                case.run(pipe, cfg=True, steps=2)
            dx.apply(pipe, *methods).close()


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())],
    ids=["deepcopy", "pickle", "save"],
)
@pytest.mark.parametrize("name", ["sd", "wan2.2"])
def test_a_model_under_a_session_is_not_copied_and_one_after_it_is(name, again):
    host, pipe = built(name)
    plain = host.run(pipe)
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None}, scale=3.0)):
        ours = host.run(pipe)
        for model in denoisers(pipe).values():
            with pytest.raises(dx.UnsupportedError, match=r"cannot be copied .* close the session"):
                again(model)
        assert torch.equal(host.run(copy.copy(pipe)), ours)
    for model in denoisers(pipe).values():
        again(model)
    assert torch.equal(host.run(pipe), plain)
