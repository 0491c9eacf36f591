"""Build the cross-attention model: a StableDiffusionPipeline of 256 and 64 image tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .clip import WIDTH as TEXT_WIDTH
from .clip import build_text_tower
from .components import LATENT_CHANNELS, LATENT_SIZE
from .tokenizer import build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

WIDTHS = (64, 96)  # channels at 16x16 and at 8x8: multiples of 32, the depth of a bf16 matrix unit
HEAD_DIM = 32


def build_sd(vae: AutoencoderKL) -> StableDiffusionPipeline:
    """Build an untrained Stable Diffusion pipeline around a trained autoencoder.

    It has a U-Net of 2.8 M parameters, one text encoder and no safety checker.
    """
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = build_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(w // HEAD_DIM for w in WIDTHS),  # diffusers means the number of heads
        use_linear_projection=True,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=build_text_tower(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_ddim() -> DDIMScheduler:
    """Build a DDIM scheduler whose first step is pure noise (Lin et al., arXiv 2305.08891).

    Training and sampling agree there, which only a prediction of v allows.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,  # only other spacings read it, but the pipeline insists on it
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
