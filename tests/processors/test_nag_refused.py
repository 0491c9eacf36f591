"""What NAG refuses, before the first step, and what the errors name."""

import pytest
import torch
from diffusers import FirstBlockCacheConfig, StableDiffusionPAGPipeline

import diffusers_ext as dx
from diffusers_ext.core import SecondText

from ..hosts import built, host, nothing_changed
from ..tiny_models import sd3, unet, wan


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(scale=0.5), "towards the negative prompt"),
        (dict(scale=60.0), "from 1.0 to 50.0"),
        (dict(tau=0.5), "from 1.0 to 100.0"),
        (dict(alpha=1.5), "from 0.0 to 1.0"),
        (dict(start=0.8, stop=0.2), "start <= stop"),
        (dict(layers=[]), "none in it"),
        (dict(layers="attn"), "NAG layers takes"),
        (dict(negative_prompt=["a", "b"]), "NAG negative_prompt takes text"),
        (dict(negative_prompt=None), "NAG negative_prompt takes text"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.NAG(**settings)


def test_unknown_layers_are_named_with_the_nearest():
    with pytest.raises(dx.MethodError, match=r"nearest names are blocks\.0\.attn2"):
        dx.apply(wan.pipeline(), dx.NAG("green", layers=["blocks.0.attn1"]))


@pytest.mark.parametrize("name", ["hunyuan-video", "mochi"])
def test_models_that_mix_the_tokens_of_a_text_are_refused(name):
    with pytest.raises(dx.UnsupportedError, match="mix all tokens of a text"):
        dx.apply(host(name).build(), dx.NAG("green"))


@pytest.mark.parametrize(
    "config, words",
    [
        (dict(cross_attention_norm="group_norm"), "norms the tokens"),
        (dict(addition_embed_type="text", addition_embed_type_num_heads=4), "more of its text than tokens"),
    ],
)
def test_u_nets_that_mix_the_tokens_of_a_text_are_refused(config, words):
    pipe = unet.pipeline()
    pipe.unet = unet.unet(**config)
    with pytest.raises(dx.UnsupportedError, match=words):
        dx.apply(pipe, dx.NAG("green"))


def test_a_bare_denoiser_is_refused():
    with pytest.raises(dx.UnsupportedError, match="apply it to the pipeline"):
        dx.apply(sd3.transformer(), dx.NAG("green"))


def test_a_pipeline_without_text_encoders_is_refused_before_the_first_step():
    host, pipe = built("sd")
    embeds = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    pipe.text_encoder = None
    with dx.apply(pipe, dx.NAG("green")) as session, pytest.raises(dx.UnsupportedError, match="text encoder"):
        pipe(prompt_embeds=embeds, num_inference_steps=2, guidance_scale=1.0, **host.size)
    assert session.run.second_text == 0


def test_a_prompt_of_another_length_is_refused_in_joint_attention():
    host, pipe = built("sd3")
    embeds, _, pooled, _ = pipe.encode_prompt("red", None, None, do_classifier_free_guidance=False)
    given = dict(prompt_embeds=embeds[:, : pipe.tokenizer_max_length], pooled_prompt_embeds=pooled)
    with dx.apply(pipe, dx.NAG("green")), pytest.raises(dx.UnsupportedError, match="as many tokens"):
        pipe(**given, num_inference_steps=2, guidance_scale=1.0, **host.size)


def test_two_second_texts_conflict_and_the_sites_are_named():
    with pytest.raises(dx.ConflictError, match=r"nag and nag both bring .* transformer\.blocks\.0\.attn2"):
        dx.apply(wan.pipeline(), dx.NAG("green"), dx.NAG("blue"))


def test_caches_conflict_before_and_after_apply():
    host, pipe = built("flux")
    with dx.apply(pipe, dx.NAG("green")):
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(dx.ConflictError, match="disable_cache"):
            host.run(pipe)
    with pytest.raises(dx.ConflictError, match="nag lengthens the text"):
        dx.apply(pipe, dx.NAG("green"))


def test_perturbed_attention_pipelines_are_refused():
    host, pipe = built("sd")
    pag = StableDiffusionPAGPipeline(**pipe.components, requires_safety_checker=False)
    with dx.apply(pag, dx.NAG("green")), pytest.raises(dx.ConflictError, match="nag and the host's own"):
        host.run(pag, cfg=True, pag_scale=2.0)


def test_a_window_without_steps_is_remarked():
    host, pipe = built("sd")
    stock = host.run(pipe)
    with dx.apply(pipe, dx.NAG("green", start=0.5, stop=0.5)), nothing_changed("none of its 3 steps"):
        assert torch.equal(host.run(pipe), stock)


def test_the_slot_and_the_base_class_belong_together():
    class Wrong(SecondText):
        name, slots, text = "wrong", frozenset(), "green"

        def select(self, sites):
            return list(sites)

        def active(self, run):
            return True

        def bind(self, site, run, inner):
            return inner

    with pytest.raises(dx.MethodError, match="the slot TEXT inherits from"):
        dx.apply(unet.pipeline(), Wrong())
