"""A denoiser may have wrappers, compilers, caches and adapters besides the session."""

import warnings

import pytest
import torch

import diffusers_ext as dx

from ..hosts import built, host
from ..tiny_models import unet
from .test_ip_adapter import EMBEDDING, adapter

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def wrapped(model):
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)


def compiled(model):
    model.forward = torch.compile(model.forward, backend="eager", dynamic=False)


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (wrapped, "guidance"),
        (wrapped, "sparse"),
        pytest.param(compiled, "guidance", marks=pytest.mark.slow),  # a wrapper as well
    ],
)
def test_a_wrapper_that_outlives_the_session_finds_the_plain_model(wrap, kind):
    h, pipe = built("sd3")
    plain = h.run(pipe, steps=1)
    method = (
        dx.SoftPAG(heads={h.layer: None}) if kind == "guidance" else dx.CLEAR(radius=2, backend="reference")
    )
    session = dx.apply(pipe, method)
    want = h.run(pipe, steps=1)
    wrap(pipe.transformer)
    assert torch.equal(want, h.run(pipe, steps=1))
    with pytest.warns(UserWarning, match="forward was replaced after apply"):
        session.close()
    assert torch.equal(plain, h.run(pipe, steps=1))


@pytest.mark.parametrize("wrap", [torch.compile, "peft"], ids=["torch.compile", "PEFT"])
def test_a_denoiser_wrapped_after_apply_ran_with_its_methods(wrap, recwarn):
    pipe = host("sd").build()
    session = dx.apply(pipe, dx.SoftPAG(heads={MID: None}))
    if wrap == "peft":
        from peft import LoraConfig, get_peft_model

        pipe.unet = get_peft_model(pipe.unet, LoraConfig(r=2, target_modules=["to_q"]))
    else:
        pipe.unet = wrap(pipe.unet, backend="eager")
    session.close()
    assert not [w for w in recwarn if "was exchanged" in str(w.message)]


def feature_cache(pipe):
    """Keeps the output of the middle block for three steps, as DeepCache keeps that of the inner blocks."""
    mid, memo = pipe.unet.mid_block, {}
    forward = mid.forward

    def cached(*args, **kwargs):
        index = pipe.scheduler.timesteps.tolist().index(memo["now"])
        if "kept" not in memo or index % 3 == 0:
            memo["kept"] = forward(*args, **kwargs)
        return memo["kept"]

    inner = pipe.unet.forward

    def outer(sample, timestep, *args, **kwargs):
        memo["now"] = timestep.item()
        return inner(sample, timestep, *args, **kwargs)

    mid.forward, pipe.unet.forward = cached, outer


@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_a_foreign_cache_is_refused_before_and_after_apply(cfg):
    h, pipe = built("sd")
    feature_cache(pipe)
    h.run(pipe, cfg=cfg)
    with pytest.raises(dx.ConflictError, match="forward of UNet2DConditionModel was replaced"):
        dx.apply(pipe, dx.SoftPAG())
    pipe = h.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # close() says that forward was replaced
        with dx.apply(pipe, dx.SoftPAG()):
            feature_cache(pipe)
            with pytest.raises(
                dx.ConflictError, match=r"forward of UNet2DConditionModel\.mid_block was replaced"
            ):
                h.run(pipe, cfg=cfg)


def test_the_extra_pass_gets_its_arguments_as_they_came():
    """Wrappers below our hook read positions; torch.compile is one that is allowed."""
    model, call = unet.unet(), unet.inputs(1)
    seen = []
    handle = model.mid_block.register_forward_pre_hook(lambda *_: seen.append(1))
    model.forward = torch.compile(model.forward, backend="eager", disable=True)
    with dx.apply(model, dx.SoftPAG()) as session:
        listed = model(call["sample"], call["timestep"], call["encoder_hidden_states"], return_dict=False)[0]
        named = model(**call)[0]
    handle.remove()
    assert torch.equal(listed, named) and session.report().extra_passes == 2 and len(seen) == 4


def test_masks_of_two_ip_adapters_in_one_tensor_are_not_cut_into_rows():
    pipe = unet.pipeline()
    pipe.unet._load_ip_adapter_weights([adapter(pipe.unet)] * 2)
    pipe.set_ip_adapter_scale([0.7, 0.7])
    embeds = [torch.randn(2, 1, EMBEDDING, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    masks = torch.ones(2, 1, 32, 32)
    masks[1, :, :16] = 0

    def call(masks):
        return pipe(
            "a",
            height=32,
            width=32,
            guidance_scale=4.0,
            num_inference_steps=2,
            ip_adapter_image_embeds=embeds,
            cross_attention_kwargs={"ip_adapter_masks": masks},
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
        )[0]

    with dx.apply(pipe, dx.SoftPAG(heads={MID: None})) as session:
        one, listed = call(masks), call([masks[:1], masks[1:]])
    assert torch.equal(one, listed) and session.report().extra_passes == 4
