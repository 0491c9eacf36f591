"""Wan: our processors give the bits of diffusers, and the family knows where everything is."""

from functools import partial

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from diffusers_ext.families.wan import FAMILY, TEXT_TOKENS, WanProcessor

from ..tiny_models import wan as tiny
from .mixins import FamilyTests, ModelTests
from .mixins.backend import BackendTests
from .mixins.compile import CompileTests
from .mixins.lora import LoRATests
from .mixins.video import VideoTests
from .parity import assert_parity, install, seen_by_cores

IMAGE_TOKENS = 5


class TestWan(FamilyTests, BackendTests, CompileTests, VideoTests):
    family, stock, host, token_axis = FAMILY, WanAttnProcessor, "wan", 1
    build, inputs = staticmethod(tiny.transformer), staticmethod(tiny.inputs)
    odd = tuple(
        {"frames": t, "height": h, "width": w} for t, h, w in [(1, 3, 5), (5, 1, 3), (3, 5, 1), (7, 3, 3)]
    )
    scaled_by = "attention_kwargs"

    @staticmethod
    def to_compile():
        return tiny.transformer(num_layers=12)

    @staticmethod
    def calls():
        sizes = {"height": 6, "width": 4}, {"height": 5, "width": 7}
        return [tiny.inputs(), tiny.inputs(seed=1), *(tiny.inputs(**size) for size in sizes)]

    def check_graphs(self, counts):
        assert counts[:3] == [1, 1, 1], "12 layers, a new step and a turned grid share one graph"


class TestWanImageToVideo(ModelTests, LoRATests, BackendTests):
    family, stock, adapted = FAMILY, WanAttnProcessor, ("add_k_proj", "add_v_proj")
    build = staticmethod(partial(tiny.transformer, **tiny.IMAGE_TO_VIDEO))
    inputs = staticmethod(partial(tiny.inputs, text=TEXT_TOKENS, image=IMAGE_TOKENS))
    odd = ({"frames": 1, "height": 3, "width": 5},)


def image_to_video(batch=1, **call):
    """A model with added key and value projections, and a call for it."""
    call = tiny.inputs(batch, text=TEXT_TOKENS, image=IMAGE_TOKENS, **call)
    return tiny.transformer(**tiny.IMAGE_TO_VIDEO), call


@pytest.mark.parametrize("task", ["t2v", "i2v"])
@pytest.mark.parametrize("batch", [1, 2])
def test_parity_with_fused_projections(batch, task):
    model, call = (tiny.transformer(), tiny.inputs(batch)) if task == "t2v" else image_to_video(batch)
    model.fuse_qkv_projections()
    assert model.blocks[0].attn1.fused_projections and model.blocks[0].attn2.fused_projections
    assert_parity(model, FAMILY, call)


def test_parity_where_patches_leave_a_rest():
    call = tiny.inputs()
    call["hidden_states"] = call["hidden_states"][..., :-2, :]
    assert_parity(tiny.transformer(), FAMILY, call)


def test_parity_with_a_timestep_per_token():
    assert_parity(tiny.transformer(), FAMILY, tiny.inputs(2, per_token_time=True))


@pytest.mark.parametrize("part", ["attn1", "attn2"])
@pytest.mark.parametrize("task", ["t2v", "i2v"])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_parity_of_one_module_with_a_mask(batch, task, part):
    """The transformer passes no mask, but its modules take one; it covers the text keys, never image keys."""
    model, call = (tiny.transformer(), tiny.inputs(batch)) if task == "t2v" else image_to_video(batch)
    attn = model.blocks[0].get_submodule(part)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 72, 64, generator=generator)
    length = TEXT_TOKENS if task == "i2v" else 7
    if part == "attn1":
        args = (
            None,
            torch.rand(batch, 1, 72, 72, generator=generator) > 0.3,
            model.rope(call["hidden_states"]),
        )
    else:
        context = torch.randn(batch, length + IMAGE_TOKENS * (task == "i2v"), 64, generator=generator)
        args = (context, torch.rand(batch, 1, 72, length, generator=generator) > 0.3, None)
    expected = attn(x, *args)
    unmasked = attn(x, args[0], None, args[2])
    install(model, FAMILY, call)
    assert type(attn.processor) is WanProcessor
    assert torch.equal(attn(x, *args), expected)
    assert not torch.equal(expected, unmasked)


@pytest.mark.parametrize("two_stage", [False, True], ids=["wan2.1", "wan2.2"])
def test_pipeline_parity(two_stage):
    pipe = tiny.pipeline(two_stage=two_stage)
    call = dict(height=16, width=32, num_frames=5, num_inference_steps=3, output_type="latent")
    expected = pipe("a red fox", generator=torch.Generator().manual_seed(0), **call).frames
    models = [m for m in (pipe.transformer, pipe.transformer_2) if m is not None]
    processors = [install(model, FAMILY, tiny.inputs())[0] for model in models]
    actual = pipe("a red fox", generator=torch.Generator().manual_seed(0), **call).frames
    calls = [p.calls for p in processors]
    assert sum(calls) == 6 and all(calls), "3 steps, each conditional and unconditional, over every stage"
    assert torch.equal(actual, expected)


def test_core_gets_the_text_branch_only():
    model, call = image_to_video(2)
    seen = seen_by_cores(model, FAMILY, call)
    video, text = (2, 72, 4, 16), (2, TEXT_TOKENS, 4, 16)
    for site, (*qkv, mask, layout) in seen.items():
        keys = video if site.kind == "self" else text
        assert [x.shape for x in qkv] == [video, keys, keys]
        assert mask is None and layout == FAMILY.layout(model, call)
    assert len(seen) == 4


def test_sites():
    sites = FAMILY.sites(tiny.transformer(), "transformer_2")
    assert [s.name for s in sites] == ["blocks.0.attn1", "blocks.0.attn2", "blocks.1.attn1", "blocks.1.attn2"]
    assert [s.kind for s in sites] == ["self", "cross", "self", "cross"]
    assert {(s.heads, s.head_dim, s.component) for s in sites} == {(4, 16, "transformer_2")}


def test_a_timestep_per_token_is_that_of_the_noisy_ones():
    assert torch.equal(FAMILY.timestep(tiny.inputs(2, per_token_time=True)), torch.tensor([500, 500]))
