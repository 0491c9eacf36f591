"""Stable Diffusion 1.5 and XL at toy size: the real classes, a denoiser call in milliseconds."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .parts import clip_config, image_vae, noise, seeded, tokenizer

CONFIG = dict(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(16, 32),
    norm_num_groups=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=4,  # the number of heads, as in SD 1.5: the host's names are at odds with themselves
)
TIME_ID_DIM = 8
XL_CONFIG = CONFIG | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2),
    attention_head_dim=(2, 4),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=TIME_ID_DIM,
    projection_class_embeddings_input_dim=6 * TIME_ID_DIM + 16,
)
CLIP_WIDTH = CONFIG["cross_attention_dim"] // 2  # SDXL puts the outputs of its two CLIPs side by side


def unet(sdxl: bool = False, *, seed: int = 0, **config: Any) -> UNet2DConditionModel:
    """A `UNet2DConditionModel` of 2 levels.

    SD 1.5 shape: attention at full resolution and in the middle. SDXL shape: at the coarse level only, two
    transformer layers a block, linear projections, size conditioning.
    """
    return seeded(lambda: UNet2DConditionModel(**(XL_CONFIG if sdxl else CONFIG) | config), seed)


def inputs(
    batch: int = 1,
    seed: int = 0,
    *,
    sdxl: bool = False,
    height: int = 8,
    width: int = 12,
    text: int = 7,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Arguments of one denoiser call; `height` and `width` in latent pixels."""
    draw = noise(seed, dtype)
    call: dict[str, Any] = {
        "sample": draw(batch, CONFIG["in_channels"], height, width),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": draw(batch, text, CONFIG["cross_attention_dim"]),
        "return_dict": False,
    }
    if sdxl:
        sizes = torch.tensor([[32.0, 48.0, 0.0, 0.0, 32.0, 48.0]], dtype=dtype)
        call["added_cond_kwargs"] = {
            "text_embeds": draw(batch, CLIP_WIDTH),
            "time_ids": sizes.repeat(batch, 1),
        }
    return call


def pipeline(sdxl: bool = False, **config: Any) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A whole pipeline; one latent pixel is 2 x 2 pixels. `config` goes to the denoiser."""
    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    if sdxl:
        pipe = StableDiffusionXLPipeline(
            vae=image_vae(),
            text_encoder=seeded(lambda: CLIPTextModel(_clip(CLIP_WIDTH)), 2),
            text_encoder_2=seeded(lambda: CLIPTextModelWithProjection(_clip(CLIP_WIDTH)), 3),
            tokenizer=tokenizer(32),
            tokenizer_2=tokenizer(32),
            unet=unet(sdxl=True, **config),
            scheduler=EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1),
            add_watermarker=False,
        )
    else:
        pipe = StableDiffusionPipeline(
            vae=image_vae(),
            text_encoder=seeded(lambda: CLIPTextModel(_clip(CONFIG["cross_attention_dim"])), 2),
            tokenizer=tokenizer(32),
            unet=unet(**config),
            scheduler=DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _clip(width: int) -> CLIPTextConfig:
    return clip_config(width, layers=3, heads=2, projection=CLIP_WIDTH)
