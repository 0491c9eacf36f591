"""Sessions beside what else touches a model: LoRA, fused projections, compiled blocks, another denoiser."""

import pytest
import torch
from peft import LoraConfig

import diffusers_ext as dx

from ..hosts import built, processors
from ..tiny_models import flux, sd3, unet, wan

LORA = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)


@pytest.mark.parametrize("tiny", [sd3, flux, wan], ids=["sd3", "flux", "wan"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_lora_before_and_after_apply(tiny, when):
    model, call = tiny.transformer(), tiny.inputs(1)
    plain = model(**call)[0]
    torch.manual_seed(0)
    if when == "before":
        model.add_adapter(LORA)
        with dx.apply(model):
            ours = model(**call)[0]
    else:
        with dx.apply(model):
            model.add_adapter(LORA)
            ours = model(**call)[0]
    stock = model(**call)[0]
    assert torch.equal(ours, stock) and not torch.equal(plain, stock)


def test_loading_an_ip_adapter_after_apply_says_what_to_do():
    model = sd3.transformer()
    with dx.apply(model, dx.SoftPAG(heads={"transformer_blocks.0.attn": None})):
        ours = model.transformer_blocks[0].attn.processor
        # Loaders of diffusers rebuild each processor from its class.
        with pytest.raises(
            dx.UnsupportedError, match="close the session, load the IP-Adapter, then apply again"
        ):
            ours.__class__()


def test_fused_projections_of_flux_and_wan_are_honoured_under_a_session():
    for tiny in (flux, wan):
        model, call = tiny.transformer(), tiny.inputs(1)
        with dx.apply(model):
            model.fuse_qkv_projections()
            ours = model(**call)[0]
        assert torch.equal(ours, model(**call)[0])


@pytest.mark.parametrize("build", [sd3.transformer, unet.unet], ids=["sd3", "unet"])
def test_unfusing_after_close_brings_diffusers_processors_back(build):
    """diffusers keeps the processors that it found when fusing: those were ours."""
    model = build()
    before = processors(model)
    session = dx.apply(model)
    model.fuse_qkv_projections()
    with pytest.warns(UserWarning, match="replaced by someone else"):
        session.close()
    model.unfuse_qkv_projections()
    assert processors(model) == before


def test_a_compiled_block_does_not_hide_that_processors_were_replaced():
    model = sd3.transformer()
    session = dx.apply(model, dx.SoftPAG(heads={"transformer_blocks.1.attn": None}))
    model.transformer_blocks[0].compile(backend="eager")
    model.fuse_qkv_projections()
    with pytest.raises(RuntimeError, match="were replaced after apply"):
        model(**sd3.inputs(1))
    with pytest.warns(UserWarning, match="replaced by someone else"):
        session.close()


def test_an_exchanged_denoiser_is_named():
    h, pipe = built("sd3")
    session = dx.apply(pipe, dx.SoftPAG())
    pipe.transformer = sd3.transformer(seed=1)
    h.run(pipe)
    with pytest.warns(UserWarning, match="transformer was exchanged while the session was open"):
        session.close()


@pytest.mark.parametrize("build", [sd3.transformer, unet.unet], ids=["sd3", "unet"])
def test_fusing_sd3_and_unet_after_apply_is_named(build):
    model = build()
    session = dx.apply(model)
    model.fuse_qkv_projections()
    with pytest.warns(UserWarning, match="replaced by someone else"):
        session.close()
