"""A new family is one file and one line: PixArt, which the package does not know, is added here that way."""

from typing import ClassVar

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor2_0

import diffusers_ext as dx
from diffusers_ext.core import Layout, Site
from diffusers_ext.families import FAMILIES
from diffusers_ext.families.base import Family
from diffusers_ext.families.unet import UNetProcessor
from diffusers_ext.models.sizes import check_size, of_pipeline

from ..close import alike
from ..hosts import processors
from ..kernels import oracles
from ..processors.masked import by_mask
from ..tiny_models.parts import image_vae, noise, seeded, t5, tokenizer
from .mixins import ModelTests

CALL = dict(
    height=32,
    width=48,
    num_inference_steps=2,
    guidance_scale=4.0,
    use_resolution_binning=False,
    clean_caption=False,
    max_sequence_length=16,
)


class PixArtFamily(Family):
    """`PixArtTransformer2DModel`: image tokens attend to themselves, then to the text."""

    name: ClassVar[str] = "pixart"
    denoisers: ClassVar[tuple[str, ...]] = ("PixArtTransformer2DModel",)
    stock: ClassVar[frozenset[str]] = frozenset({"AttnProcessor2_0"})
    cfg: ClassVar[str] = "batch"

    def sites(self, model, component):
        return [
            Site(f"transformer_blocks.{i // 2}.{part}", i, 4, 8, kind, component)
            for i in range(2 * len(model.transformer_blocks))
            for part, kind in [(("attn1", "self"), ("attn2", "cross"))[i % 2]]
        ]

    def processor(self, site, run):
        return UNetProcessor(site, run)

    def layout(self, model, call):
        h, w = (side // model.config.patch_size for side in call["hidden_states"].shape[-2:])
        words = slice(0, call["encoder_hidden_states"].shape[1])
        return Layout((1, h, w), slice(0, 0), slice(0, h * w), cross_text=words)

    def text_tokens(self, pipe):
        return 0


FAMILY = PixArtFamily()


def transformer():
    config = dict(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    return seeded(lambda: PixArtTransformer2DModel(**config), 0)


def inputs(batch=1, seed=0, *, height=8, width=12, text=7, dtype=torch.float32):
    draw = noise(seed, dtype)
    return {
        "hidden_states": draw(batch, 4, height, width),
        "encoder_hidden_states": draw(batch, text, 32),
        "timestep": torch.full((batch,), 500.0, dtype=dtype),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "return_dict": False,
    }


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(FAMILIES, "PixArtTransformer2DModel", f"{__name__}:FAMILY")


@pytest.fixture
def pipe():
    pipe = PixArtSigmaPipeline(
        tokenizer=tokenizer(32),
        text_encoder=t5(2),
        vae=image_vae(use_quant_conv=False, use_post_quant_conv=False),
        transformer=transformer(),
        scheduler=DPMSolverMultistepScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.usefixtures("known")
class TestPixArt(ModelTests):
    family, stock = FAMILY, AttnProcessor2_0
    build, inputs = staticmethod(transformer), staticmethod(inputs)
    odd = ({"height": 6, "width": 10, "text": 1}, {"height": 2, "width": 2})


def picture(pipe, output_type="latent"):
    generator = torch.Generator().manual_seed(0)
    return pipe("a red circle", **CALL, generator=generator, output_type=output_type, return_dict=False)[0]


def test_without_the_line_the_model_is_refused(pipe):
    with pytest.raises(dx.UnsupportedError, match="No family knows the denoiser class PixArt"):
        dx.apply(pipe)


def test_bits_are_kept_and_processors_restored(pipe, known):
    plain, before = picture(pipe), processors(pipe.transformer)
    with dx.apply(pipe) as session:
        assert torch.equal(picture(pipe), plain)
    assert [site.calls for site in session.report().sites] == [2] * 4
    assert processors(pipe.transformer) == before


def test_sparse_attention_equals_dense_attention_with_its_mask(pipe, known):
    pictures = []
    masked = by_mask(lambda grid: oracles.box(grid, (1, 3, 5), (1, 1, 1)))
    for method in (dx.GNA((3, 5), backend="reference", dense_steps=0), masked):
        with dx.apply(pipe, method):
            pictures.append(picture(pipe))
    alike(*pictures)
    assert not torch.equal(pictures[0], picture(pipe))


def test_guidance_makes_its_pass(pipe, known):
    plain = picture(pipe)
    with dx.apply(pipe, dx.SoftPAG(), cfg="batch") as session:
        assert not torch.equal(picture(pipe), plain)
    assert session.report().extra_passes == 2


def test_summary_plan_and_sizes_know_it(pipe, known):
    assert "PixArtTransformer2DModel" in str(dx.summary(pipe)) and "pixart" in str(dx.summary(pipe))
    assert dx.plan(pipe, dx.GNA((3, 5)), height=32, width=48).grid == (1, 8, 12)
    assert of_pipeline(pipe).text == 0
    check_size(pipe, {"height": 32, "width": 48})
    with pytest.raises(ValueError, match="needs a height that is a multiple of 8 px, got 33"):
        check_size(pipe, {"height": 33, "width": 48})


def test_noise_and_pictures(pipe, known):
    latents = picture(pipe)
    assert FAMILY.noise_shape(pipe, CALL) == latents.shape
    assert torch.equal(FAMILY.decode(pipe, latents, CALL), picture(pipe, "pt"))
