"""Sizes that a model can make, by its tables and its pipeline's check; the same for plans and pictures."""

from dataclasses import replace

import pytest
import torch
from diffusers import AuraFlowTransformer2DModel, CosmosTransformer3DModel, FluxKontextPipeline

import diffusers_ext as dx
from diffusers_ext.models.presets import find
from diffusers_ext.models.sizes import Tokens, _most, check_size, cut_of, of_pipeline
from diffusers_ext.sampling.call import arguments, run
from diffusers_ext.zoo import catalogue
from tests.hosts import every_call, host
from tests.tiny_models import flux, sd3, unet, wan


@every_call
def test_what_is_proposed_is_made_as_asked(host):
    """One step more than what fits in every axis is refused; the sizes proposed for it come out."""
    pipe = host.build()
    tokens = cut_of(pipe)
    proposed = dict(host.size)
    for name, value in host.size.items():
        with pytest.raises(ValueError, match=f"needs a {name} that is") as caught:
            check_size(pipe, {name: value + 1})
        below = int(str(caught.value).split("nearest ")[1].split()[1])
        assert below == value
        proposed[name] = below
    check_size(pipe, proposed)
    made = host.run(pipe, steps=host.least_steps, output_type="np", **{})
    frames, height, width = (
        (made[0] if host.video else made).shape[:3] if host.video else (1, *made[0].shape[:2])
    )
    assert (height, width) == (host.size["height"], host.size["width"])
    assert frames == host.size.get("num_frames", 1)
    planned = of_pipeline(pipe)
    assert replace(tokens, text=planned.text, levels=planned.levels) == planned


@every_call
def test_plans_and_pictures_refuse_the_same_sizes(host):
    pipe = host.build()
    method = dx.GNA((1, 1, 1) if host.video else (1, 1), dense_steps=0)
    for name in host.size:
        for value in (0, 1, 24, 30, 40, 10**6, 10**9 + 1):
            size = host.size | {name: value}
            refusals = []
            for ask in (lambda s: check_size(pipe, s), lambda s: of_pipeline(pipe, method).grid(s)):
                try:
                    ask(size)
                    refusals.append(None)
                except ValueError as error:
                    refusals.append(str(error).split(" needs ")[1].rstrip("."))
            assert refusals[0] == refusals[1]


TABLES = [
    (sd3.pipeline, {}, "height", "a multiple of 4 px up to 64, got 68; the nearest is 64", 68),
    (wan.pipeline, {}, "width", "a multiple of 16 px up to 256, got 272; the nearest is 256", 272),
    (wan.pipeline, {}, "num_frames", "multiple of 2 up to 127, got 129; the nearest is 127", 129),
    (unet.pipeline, {}, "height", "a multiple of 8 px, got 4; the nearest is 8", 4),
]


@pytest.mark.parametrize("build, config, name, words, value", TABLES)
def test_tables_end_where_the_model_does(build, config, name, words, value):
    pipe = build(**config)
    with pytest.raises(ValueError, match=words):
        arguments(pipe, {}, **{name: value})
    fits = {"height": 32, "width": 32} | ({"num_frames": 5} if name == "num_frames" else {})
    with pytest.raises(dx.MethodError, match=words):
        of_pipeline(pipe).grid(fits | {name: value})


def test_defaults_beyond_the_table_are_refused_too():
    """A pipeline whose model is smaller than the defaults of its class."""
    with pytest.raises(ValueError, match="up to 256, got 480, its default; the nearest is 256"):
        arguments(wan.pipeline(), {})
    size = {"height": 32, "width": 32, "num_frames": 9}
    assert arguments(wan.pipeline(), {}, **size) == size


def test_the_last_size_of_a_table_runs_and_the_next_does_not():
    pipe = wan.pipeline(rope_max_seq_len=8)
    call = dict(height=32, width=32, num_inference_steps=1, guidance_scale=1.0, max_sequence_length=16)
    assert pipe("a", num_frames=15, output_type="np", **call).frames.shape[1] == 15
    with pytest.raises(ValueError, match="up to 15, got 17; the nearest is 15"):
        arguments(pipe, call, num_frames=17)
    with pytest.raises(RuntimeError):
        pipe("a", num_frames=17, **call)


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_presets_of_the_zoo_know_the_same_limits(name):
    pipe, tokens = dx.load(name), find(name).tokens
    found = cut_of(pipe)
    for field in ("edge_px", "unit_px", "most", "frames", "height", "width", "num_frames"):
        assert getattr(found, field) == getattr(tokens, field), field


@pytest.mark.parametrize("name", ["wan2.1", "wan2.2", "wan2.2-ti2v-5b"])
def test_plans_by_preset_end_at_the_table(name):
    with pytest.raises(dx.MethodError, match=r"up to .*, got 100001; the nearest is"):
        dx.plan(name, dx.Radial(), num_frames=100001)


def test_limits_in_words():
    tokens = Tokens(edge_px=8, frames=4, text=0, height=64, width=64, unit_px=16, most=(3, 0, 4))
    assert tokens.why_not("height", 16 * 10**6) is None
    assert tokens.why_not("width", 32) is None
    assert tokens.why_not("width", 48).endswith("multiple of 16 px up to 32, got 48; the nearest is 32")
    assert tokens.why_not("num_frames", 0).endswith("multiple of 4 up to 9, got 0; the nearest is 1")
    assert tokens.why_not("num_frames", 7).endswith("got 7; the nearest are 5 and 9")


def test_kontext_makes_the_size_that_was_asked_for():
    """The pipeline would scale any size to an area of 1024 x 1024."""
    pipe = FluxKontextPipeline(**flux.pipeline().components)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 48}
    call = arguments(pipe, {}, **size, num_inference_steps=1)
    assert pipe(prompt="a", **call).images[0].size == (48, 32)
    assert arguments(pipe, {}, height=32)["max_area"] == 32 * cut_of(pipe).width


def test_another_size_than_asked_is_never_silent():
    """Kontext with an area of its own, and Mochi, which rounds frames."""
    pipe = FluxKontextPipeline(**flux.pipeline().components)
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 48, "max_area": 64 * 96, "num_inference_steps": 1}
    with pytest.raises(
        ValueError, match="made height 64 and width 96 where height 32 and width 48 was asked"
    ):
        run(pipe, ["a"], call, output_type="np")
    tiny = host("mochi")
    size = tiny.size | {"num_frames": 8}
    with pytest.raises(ValueError, match="made num_frames 7 where num_frames 8 was asked"):
        run(tiny.build(), ["a"], size | tiny.extra | {"num_inference_steps": 2}, output_type="np")


def test_tables_of_other_models():
    """Each by a real denoiser at toy size: tables are counted in tokens, in latents, or in all positions."""
    small = dict(num_layers=1, attention_head_dim=8, num_attention_heads=2)
    aura = AuraFlowTransformer2DModel(
        sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, pos_embed_max_size=64,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
    )  # fmt: skip
    assert _most(aura, aura.config) == (0, 8, 8)
    more = dict(
        max_size=(8, 16, 24), patch_size=(1, 2, 2), text_embed_dim=8, adaln_lora_dim=4, mlp_ratio=1.0,
        in_channels=2, out_channels=2, concat_padding_mask=False, **small | {"attention_head_dim": 16},
    )  # fmt: skip
    for extra, most in ((None, (12, 12, 12)), ("learnable", (8, 8, 12))):
        cosmos = CosmosTransformer3DModel(extra_pos_embed_type=extra, **more)
        assert _most(cosmos, cosmos.config) == most
        args = {"timestep": torch.zeros(1), "encoder_hidden_states": torch.zeros(1, 3, 8), "fps": 24}
        t, h, w = most
        cosmos(torch.zeros(1, 2, t, 2 * h, 2 * w), **args)
        with pytest.raises(RuntimeError):
            cosmos(torch.zeros(1, 2, t, 2 * h, 2 * w + 2), **args)
