"""FLUX.1 at toy size: the real classes, a denoiser call in milliseconds."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel

from .parts import clip_config, image_vae, noise, seeded, t5, tokenizer

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
    draw = noise(seed, dtype)
    call: dict[str, Any] = {
        "hidden_states": draw(batch, height * width, CONFIG["in_channels"]),
        "encoder_hidden_states": draw(batch, text, CONFIG["joint_attention_dim"]),
        "pooled_projections": draw(batch, CONFIG["pooled_projection_dim"]),
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
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=image_vae(shift_factor=0.1, scaling_factor=0.4, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=seeded(lambda: CLIPTextModel(clip_config()), 2),
        tokenizer=tokenizer(32),
        text_encoder_2=t5(3),
        tokenizer_2=tokenizer(32),
        transformer=transformer(**config),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
