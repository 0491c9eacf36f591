"""The joint-attention model: a StableDiffusion3Pipeline of 64 image tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tokenizer import build_tokenizer
from .parts import CLIP_WIDTHS, CONTEXT_WIDTH, LATENT_CHANNELS, LATENT_SIZE, build_clip, build_t5

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline


def build_sd3(vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """An untrained SD3 pipeline around a trained autoencoder: 64 image tokens, three text encoders."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = build_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        num_attention_heads=4,
        attention_head_dim=32,
        caption_projection_dim=128,
        joint_attention_dim=CONTEXT_WIDTH,
        pooled_projection_dim=sum(CLIP_WIDTHS),
        pos_embed_max_size=LATENT_SIZE // 2,
        qk_norm="rms_norm",
    )
    start_as_identity(transformer)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=build_clip(tokenizer, CLIP_WIDTHS[0], layers=3),
        tokenizer=tokenizer,
        text_encoder_2=build_clip(tokenizer, CLIP_WIDTHS[1], layers=2),
        tokenizer_2=tokenizer,
        # Without a T5, SD3 appends 256 zero tokens and cannot be loaded from a bare folder.
        text_encoder_3=build_t5(tokenizer),
        tokenizer_3=tokenizer,
    )


def start_as_identity(transformer: SD3Transformer2DModel) -> None:
    """Zero each modulation and the last projection (adaLN-Zero of DiT): blocks start as the identity."""
    import torch

    modulations = [m for m in transformer.modules() if type(m).__name__.startswith("AdaLayerNorm")]
    with torch.no_grad():
        for layer in [*(m.linear for m in modulations), transformer.proj_out]:
            layer.weight.zero_()
            layer.bias.zero_()
