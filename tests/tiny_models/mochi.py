"""Mochi at toy size: the real classes, a denoiser call in milliseconds."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)

from .parts import noise, seeded, t5, tokenizer

CONFIG = dict(
    patch_size=2,
    num_attention_heads=4,
    attention_head_dim=16,
    num_layers=3,
    pooled_projection_dim=24,
    in_channels=12,
    text_embed_dim=32,
    time_embed_dim=32,
)


def transformer(*, seed: int = 0, **config: Any) -> MochiTransformer3DModel:
    """A `MochiTransformer3DModel` with 3 blocks of 4 heads of 16 channels; the last keeps no text."""
    return seeded(lambda: MochiTransformer3DModel(**CONFIG | config), seed)


def inputs(
    batch: int = 1,
    seed: int = 0,
    *,
    frames: int = 3,
    height: int = 4,
    width: int = 6,
    text: int = 7,
    lengths: tuple[int, ...] = (5, 3),
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Arguments of one denoiser call; sizes in tokens, `lengths` of the prompts without padding."""
    draw = noise(seed, dtype)
    patch = CONFIG["patch_size"]
    return {
        "hidden_states": draw(batch, CONFIG["in_channels"], frames, height * patch, width * patch),
        "encoder_hidden_states": draw(batch, text, CONFIG["text_embed_dim"]),
        "timestep": torch.full((batch,), 500.0),
        "encoder_attention_mask": torch.arange(text) < torch.tensor(lengths[:batch])[:, None],
        "return_dict": False,
    }


def pipeline(**config: Any) -> MochiPipeline:
    """A whole `MochiPipeline`; one token is 16 x 16 pixels and, after the first, 6 frames, fixed by the host.

    `config` goes to the transformer.
    """
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=seeded(_vae, 1),
        text_encoder=t5(2),
        tokenizer=tokenizer(256),
        transformer=transformer(**config),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _vae() -> AutoencoderKLMochi:
    return AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
