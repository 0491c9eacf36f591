"""Stable Diffusion 3 at toy size: the real classes, a denoiser call in milliseconds."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

from .parts import clip_config, image_vae, noise, seeded, t5, tokenizer

CONFIG = dict(
    sample_size=16,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    attention_head_dim=8,
    num_attention_heads=4,
    joint_attention_dim=32,
    caption_projection_dim=32,
    pooled_projection_dim=32,
    pos_embed_max_size=16,
)
CLIP_WIDTH = (
    CONFIG["pooled_projection_dim"] // 2
)  # the pipeline puts the outputs of its two CLIPs side by side


def transformer(*, seed: int = 0, **config: Any) -> SD3Transformer2DModel:
    """An `SD3Transformer2DModel` with 3 layers of 4 heads of 8 channels; SD3.5 takes `qk_norm="rms_norm"`."""
    return seeded(lambda: SD3Transformer2DModel(**CONFIG | config), seed)


def inputs(
    batch: int = 1,
    seed: int = 0,
    *,
    height: int = 8,
    width: int = 12,
    text: int = 7,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Arguments of one denoiser call; `height` and `width` in latent pixels, 2 a token."""
    draw = noise(seed, dtype)
    return {
        "hidden_states": draw(batch, CONFIG["in_channels"], height, width),
        "encoder_hidden_states": draw(batch, text, CONFIG["joint_attention_dim"]),
        "pooled_projections": draw(batch, CONFIG["pooled_projection_dim"]),
        "timestep": torch.full((batch,), 500.0, dtype=dtype),
        "return_dict": False,
    }


def pipeline(**config: Any) -> StableDiffusion3Pipeline:
    """A whole `StableDiffusion3Pipeline`; one token is 4 x 4 pixels. `config` goes to the transformer."""
    pipe = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(shift_factor=0.1, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=seeded(_clip, 2),
        tokenizer=tokenizer(32),
        text_encoder_2=seeded(_clip, 3),
        tokenizer_2=tokenizer(32),
        text_encoder_3=t5(4),
        tokenizer_3=tokenizer(32),
        transformer=transformer(**config),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _clip() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(clip_config(CLIP_WIDTH, layers=3, heads=2))
