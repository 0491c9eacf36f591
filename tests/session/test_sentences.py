"""Refusals name the next step, and a session shows what is in force."""

import copy

import pytest
import torch

import diffusers_ext as dx

from ..hosts import built, host, processors
from ..tiny_models import flux, sd3, unet

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def test_a_wrapped_denoiser_is_refused_with_the_place_of_the_denoiser():
    from peft import LoraConfig, get_peft_model

    h, pipe = built("sd")
    pipe.unet = get_peft_model(pipe.unet, LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    with pytest.raises(dx.UnsupportedError, match=r"set pipe\.unet = pipe\.unet\.base_model\.model"):
        dx.apply(pipe, dx.SoftPAG())
    pipe.unet = pipe.unet.base_model.model
    plain = h.run(pipe)
    with dx.apply(pipe, dx.SoftPAG(heads={MID: None})):
        assert not torch.equal(plain, h.run(pipe))
    assert torch.equal(plain, h.run(pipe))


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (sd3.transformer, r"for block in model\.transformer_blocks: block\.compile\(\)"),
        (flux.transformer, r"model\.compile_repeated_blocks\(\)"),
        (unet.unet, r"model\.compile_repeated_blocks\(\)"),
    ],
    ids=["sd3", "flux", "unet"],
)
def test_the_hint_on_compiling_works_for_the_model(build, hint):
    with pytest.raises(dx.UnsupportedError, match=hint):
        dx.apply(torch.compile(build(), backend="eager"), dx.SoftPAG())
    model = build()
    if "repeated" in hint:
        model.compile_repeated_blocks(backend="eager")
    else:
        for block in model.transformer_blocks:
            block.compile(backend="eager")
    dx.apply(model, dx.SoftPAG()).close()


def test_a_class_without_brackets_gets_a_sentence():
    with pytest.raises(dx.MethodError, match=r"got the class SoftPAG; add brackets: SoftPAG\(\)"):
        dx.apply(sd3.transformer(), dx.SoftPAG)


@pytest.mark.parametrize("name", ["sd", "wan2.2"])
def test_remove_takes_off_what_nobody_has_a_name_for(name):
    h, pipe = built(name)
    plain, before = h.run(pipe), [processors(m) for m in (pipe.components.values()) if hasattr(m, "modules")]
    dx.remove(pipe)
    dx.apply(pipe, dx.SoftPAG(heads={h.layer: None}))
    with pytest.raises(dx.ConflictError, match=r"take the first off with its close\(\) or dx\.remove\(\)"):
        dx.apply(pipe, dx.SoftPAG())
    dx.remove(copy.copy(pipe))  # any pipeline around the denoiser will do
    assert torch.equal(plain, h.run(pipe))
    assert before == [processors(m) for m in (pipe.components.values()) if hasattr(m, "modules")]
    dx.remove(pipe)


def test_a_session_shows_what_is_on():
    pipe = host("sd3").build()
    session = dx.apply(pipe, dx.SoftPAG(scale=2.5))
    assert repr(session).startswith("<Session open, on transformer: SoftPAG(") and "scale=2.5" in repr(
        session
    )
    page = session._repr_html_()
    assert page.startswith("<details>") and "&lt;Session open" in page and "dx.remove(pipe)" in page
    session.close()
    assert "closed" in repr(session)
