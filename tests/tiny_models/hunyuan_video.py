"""HunyuanVideo at toy size: the real classes, a denoiser call in milliseconds."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import CLIPTextModel, LlamaConfig, LlamaModel

from .parts import SPECIAL, clip_config, noise, seeded, tokenizer

CONFIG = dict(
    in_channels=4,
    out_channels=4,
    num_attention_heads=4,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=1,
    patch_size=2,
    patch_size_t=1,
    guidance_embeds=True,
    text_embed_dim=32,
    pooled_projection_dim=32,
    rope_axes_dim=(4, 6, 6),
)
TEMPLATE = {"template": "{}", "crop_start": 0}  # the usual one has 95 tokens in front of the prompt


def transformer(*, seed: int = 0, **config: Any) -> HunyuanVideoTransformer3DModel:
    """A `HunyuanVideoTransformer3DModel` with 2 double and 2 single blocks of 4 heads of 16 channels."""
    return seeded(lambda: HunyuanVideoTransformer3DModel(**CONFIG | config), seed)


def inputs(
    batch: int = 1,
    seed: int = 0,
    *,
    frames: int = 3,
    height: int = 4,
    width: int = 6,
    text: int = 7,
    lengths: tuple[int, ...] = (5, 3),
    channels: int = CONFIG["in_channels"],
    guidance: float | None = 6.0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Arguments of one denoiser call; sizes in tokens, `lengths` of the prompts without padding.

    `channels` for a model that takes the first frame as channels, `guidance=None` for one without embedding.
    """
    draw = noise(seed, dtype)
    patch = CONFIG["patch_size"]
    call: dict[str, Any] = {
        "hidden_states": draw(batch, channels, frames, height * patch, width * patch),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": draw(batch, text, CONFIG["text_embed_dim"]),
        "encoder_attention_mask": (torch.arange(text) < torch.tensor(lengths[:batch])[:, None]).to(dtype),
        "pooled_projections": draw(batch, CONFIG["pooled_projection_dim"]),
        "return_dict": False,
    }
    if guidance is not None:
        call["guidance"] = torch.full((batch,), guidance * 1000, dtype=dtype)
    return call


def pipeline(**config: Any) -> HunyuanVideoPipeline:
    """A whole `HunyuanVideoPipeline`; one token is 4 x 4 pixels and, after the first, 4 frames.

    `config` goes to the transformer; the calls want `prompt_template=TEMPLATE`.
    """
    return _pipeline(HunyuanVideoPipeline, **config)


def image_to_video() -> HunyuanSkyreelsImageToVideoPipeline:
    """SkyReels: the first frame comes as channels, prompts as in text to video."""
    return _pipeline(HunyuanSkyreelsImageToVideoPipeline, in_channels=2 * CONFIG["in_channels"])


def _pipeline(kind: type, **config: Any) -> Any:
    llama = LlamaConfig(
        **SPECIAL,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    pipe = kind(
        text_encoder=seeded(lambda: LlamaModel(llama), 2),
        tokenizer=tokenizer(64),
        transformer=transformer(**config),
        vae=seeded(_vae, 1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=seeded(lambda: CLIPTextModel(clip_config(length=77)), 3),
        tokenizer_2=tokenizer(77),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _vae() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=2,
        temporal_compression_ratio=4,
        mid_block_add_attention=False,
    )
