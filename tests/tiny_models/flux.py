"""FLUX.1 at toy size: the real classes, a denoiser call in milliseconds."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from .parts import SPECIAL, seeded, tokenizer

CONFIG = dict(
    patch_size=1,
    in_channels=16,
    num_layers=2,
    num_single_layers=3,
    attention_head_dim=16,
    num_attention_heads=4,
    joint_attention_dim=32,
    pooled_projection_dim=32,
    guidance_embeds=False,
    axes_dims_rope=(4, 6, 6),
)


def transformer(*, seed: int = 0, **config: Any) -> FluxTransformer2DModel:
    """A `FluxTransformer2DModel` with 2 double and 3 single blocks of 4 heads of 16 channels."""
    return seeded(lambda: FluxTransformer2DModel(**CONFIG | config), seed)


def image_ids(height: int, width: int) -> Tensor:
    """Position ids `[height * width, 3]` as the pipelines make them, in tokens."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def inputs(
    batch: int = 1,
    seed: int = 0,
    *,
    height: int = 4,
    width: int = 6,
    text: int = 7,
    guidance: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Arguments of one denoiser call; sizes in tokens, `guidance` for a model that embeds it."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    call: dict[str, Any] = {
        "hidden_states": noise(batch, height * width, CONFIG["in_channels"]),
        "encoder_hidden_states": noise(batch, text, CONFIG["joint_attention_dim"]),
        "pooled_projections": noise(batch, CONFIG["pooled_projection_dim"]),
        "timestep": torch.full((batch,), 0.5, dtype=dtype),
        "img_ids": image_ids(height, width).to(dtype),
        "txt_ids": torch.zeros(text, 3, dtype=dtype),
        "return_dict": False,
    }
    if guidance is not None:
        call["guidance"] = torch.full((batch,), guidance)
    return call


def pipeline(**config: Any) -> FluxPipeline:
    """A whole `FluxPipeline`; one token is 4 x 4 pixels. `config` goes to the transformer."""
    clip = CLIPTextConfig(
        **SPECIAL,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        projection_dim=32,
    )
    t5 = T5Config(
        **SPECIAL, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=1, feed_forward_proj="gated-gelu"
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=seeded(_vae, 1),
        text_encoder=seeded(lambda: CLIPTextModel(clip), 2),
        tokenizer=tokenizer(32),
        text_encoder_2=seeded(lambda: T5EncoderModel(t5), 3),
        tokenizer_2=tokenizer(32),
        transformer=transformer(**config),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=0.4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
