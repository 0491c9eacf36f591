"""Build the joint-attention models: a StableDiffusion3Pipeline of 64 image tokens, and one of 256."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .components import (
    CLIP_WIDTHS,
    CONTEXT_WIDTH,
    LATENT_CHANNELS,
    LATENT_SIZE,
    build_clip,
    build_t5,
    silence,
)
from .tokenizer import build_tokenizer

# Blocks of the coarse model. Of all fours with its last block, these lose least before training.
FINE_BLOCKS = (0, 2, 3, 5)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline


def build_sd3(vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """Build an untrained SD3 pipeline around a trained autoencoder: 64 image tokens, three text encoders."""
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
    """Set each modulation and the last projection to zero, so that blocks start as the identity.

    This is adaLN-Zero of DiT.
    """
    modulations = [m for m in transformer.modules() if type(m).__name__.startswith("AdaLayerNorm")]
    silence([*(m.linear for m in modulations), transformer.proj_out])


def refine(coarse: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """Build a transformer of patch 1 (256 image tokens) that begins as the one of patch 2, `coarse`.

    It has the blocks FINE_BLOCKS of `coarse`. A latent pixel is read as a patch of four equal pixels, and
    written as the mean of a patch. Its position is between the positions of the patches around it.
    """
    import torch
    from diffusers import SD3Transformer2DModel

    side = coarse.config.sample_size
    shape = {k: v for k, v in coarse.config.items() if not k.startswith("_")}
    shape |= {"patch_size": 1, "num_layers": len(FINE_BLOCKS), "pos_embed_max_size": side}
    fine = SD3Transformer2DModel(**shape)
    for part in ("time_text_embed", "context_embedder", "norm_out"):
        getattr(fine, part).load_state_dict(getattr(coarse, part).state_dict())
    for block, number in zip(fine.transformer_blocks, FINE_BLOCKS, strict=True):
        block.load_state_dict(coarse.transformer_blocks[number].state_dict())
    patches, places = coarse.pos_embed.proj, coarse.pos_embed.pos_embed
    rows = places.unflatten(1, (coarse.config.pos_embed_max_size, -1)).permute(0, 3, 1, 2)
    between = torch.nn.functional.interpolate(rows, (side, side), mode="bilinear")
    with torch.no_grad():
        fine.pos_embed.pos_embed.copy_(between.permute(0, 2, 3, 1).flatten(1, 2))
        fine.pos_embed.proj.weight.copy_(patches.weight.sum((2, 3), keepdim=True))
        fine.pos_embed.proj.bias.copy_(patches.bias)
        for name, value in coarse.proj_out.state_dict().items():  # rows: two pixels, two pixels, channels
            getattr(fine.proj_out, name).copy_(value.unflatten(0, (4, -1)).mean(0))
    return fine
