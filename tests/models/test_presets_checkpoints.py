"""Presets of checkpoints against the configs of these: what they name is there, and is what was published.

The modules are built on the meta device, without weights, from the numbers of the `config.json` of each.
"""

from dataclasses import dataclass

import diffusers
import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.models.presets import known, shipped
from diffusers_ext.settings.methods import build

ATTN1 = "mid_block.attentions.0.transformer_blocks.{}.attn1"


@dataclass(frozen=True)
class Checkpoint:
    """`name` on the Hub, what differs from the defaults of its class, and where PAG acts with which scale."""

    name: str
    model: str  # class of the denoiser
    config: dict
    touched: tuple[str, ...]
    heads: int
    scale: float = 3.0

    def __str__(self) -> str:
        return self.name


def unet(name, mid, **config):
    sites = tuple(ATTN1.format(i) for i in range(mid))
    heads = config["attention_head_dim"]  # the number of heads, whatever diffusers calls it
    return Checkpoint(
        name, "UNet2DConditionModel", config, sites, heads if isinstance(heads, int) else heads[-1]
    )


def mmdit(name, layer, layers, **config):
    config = dict(
        num_layers=layers, num_attention_heads=layers, caption_projection_dim=layers * 64, sample_size=128,
        joint_attention_dim=4096, pooled_projection_dim=2048, out_channels=16,
    ) | config  # fmt: skip
    touched = (f"transformer_blocks.{layer}.attn",)
    return Checkpoint(name, "SD3Transformer2DModel", config, touched, layers, 0.7)


SD1 = dict(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
SD2 = dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True)
SDXL = dict(
    cross_attention_dim=2048, attention_head_dim=[5, 10, 20], use_linear_projection=True, sample_size=128,
    block_out_channels=[320, 640, 1280], transformer_layers_per_block=[1, 2, 10],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
)  # fmt: skip
MEDIUM = dict(pos_embed_max_size=384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13)))
LARGE = dict(pos_embed_max_size=192, qk_norm="rms_norm")
CHECKPOINTS = [
    unet("runwayml/stable-diffusion-v1-5", 1, **SD1),
    unet("stable-diffusion-v1-5/stable-diffusion-v1-5", 1, **SD1),
    unet("CompVis/stable-diffusion-v1-4", 1, **SD1),
    unet("stabilityai/stable-diffusion-2-1", 1, **SD2, sample_size=96),
    unet("stabilityai/stable-diffusion-2-1-base", 1, **SD2, sample_size=64),
    unet("stabilityai/stable-diffusion-xl-base-1.0", 10, **SDXL),
    mmdit("stabilityai/stable-diffusion-3-medium-diffusers", 13, 24, pos_embed_max_size=192),
    mmdit("stabilityai/stable-diffusion-3.5-medium", 13, 24, **MEDIUM),
    mmdit("stabilityai/stable-diffusion-3.5-large", 21, 38, **LARGE),
    Checkpoint(
        "black-forest-labs/FLUX.1-dev",
        "FluxTransformer2DModel",
        dict(guidance_embeds=True),
        ("single_transformer_blocks.12.attn",),
        24,
        0.7,
    ),
]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=str)
def test_guidance_acts_where_the_file_says(checkpoint):
    """`dx.apply` refuses modules and heads that the model does not have."""
    found = known(checkpoint.name)
    assert found is not None and found.name in shipped()
    with torch.device("meta"):
        model = getattr(diffusers, checkpoint.model).from_config(checkpoint.config)
    method = dx.preset(checkpoint.name, "softpag")
    with dx.apply(model, method) as session:
        touched = [s["path"] for s in session.report().to_dict()["sites"]]
    assert tuple(touched) == checkpoint.touched
    assert (method.scale, method.strength) == (checkpoint.scale, 1.0)
    for path in touched:
        assert model.get_submodule(path).heads == checkpoint.heads
        if method.heads is not None:
            assert list(method.heads[path]) == list(range(checkpoint.heads)), "PAG takes all heads"


@pytest.mark.parametrize("checkpoint", [c for c in CHECKPOINTS if "UNet" in c.model], ids=str)
def test_levels_and_sizes_of_unets(checkpoint):
    from diffusers_ext.families import family_of
    from diffusers_ext.families.unet import halvings

    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel.from_config(checkpoint.config)
    sites = [s.name for s in family_of(model).sites(model, "unet") if s.kind != "cross"]
    tokens = known(checkpoint.name).tokens
    depth = len(model.config.down_block_types)
    assert tokens.levels == tuple(sorted({halvings(name, depth) for name in sites}))
    assert tokens.height == tokens.width == model.config.sample_size * tokens.edge_px


@pytest.mark.parametrize("preset", shipped().values(), ids=lambda p: p.name)
def test_every_shipped_method_fits_a_checkpoint_above_or_needs_no_modules(preset):
    """Module paths are of one model, so a preset that names some must be in the list."""
    for name, table in preset.settings.items():
        if table.get("heads") is not None:
            assert preset in [known(c.name) for c in CHECKPOINTS]
        assert build([name], (), preset.settings)
