"""Wan at toy size: the real classes, a denoiser call in milliseconds."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from .parts import noise, seeded, t5, tokenizer

CONFIG = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=4,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    cross_attn_norm=True,
    rope_max_seq_len=64,
)
IMAGE_DIM = 24  # of the CLIP features an image-to-video model takes
IMAGE_TO_VIDEO = dict(
    image_dim=IMAGE_DIM, added_kv_proj_dim=64
)  # pass to `transformer`; 64 is heads x head_dim


def transformer(*, seed: int = 0, **config: Any) -> WanTransformer3DModel:
    """A `WanTransformer3DModel` with 2 blocks of 4 heads of 16 channels."""
    return seeded(lambda: WanTransformer3DModel(**CONFIG | config), seed)


def inputs(
    batch: int = 1,
    seed: int = 0,
    *,
    frames: int = 3,
    height: int = 4,
    width: int = 6,
    text: int = 7,
    image: int | None = None,
    per_token_time: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Arguments of one denoiser call; `frames`, `height` and `width` in tokens.

    `image` adds that many tokens of image features (then the host wants `text=512`); `per_token_time` gives
    every token its timestep as Wan 2.2 5B does, 0 in the first frame.
    """
    draw = noise(seed, dtype)
    p_t, p_h, p_w = CONFIG["patch_size"]
    call: dict[str, Any] = {
        "hidden_states": draw(batch, CONFIG["in_channels"], frames * p_t, height * p_h, width * p_w),
        "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": draw(batch, text, CONFIG["text_dim"]),
        "return_dict": False,
    }
    if image is not None:
        call["encoder_hidden_states_image"] = draw(batch, image, IMAGE_DIM)
    if per_token_time:
        time = torch.full((batch, frames, height * width), 500)
        time[:, 0] = 0
        call["timestep"] = time.flatten(1)
    return call


def pipeline(*, two_stage: bool = False, **config: Any) -> WanPipeline:
    """A whole `WanPipeline`; one token is 4 x 4 pixels and, after the first, 2 frames.

    `config` goes to the transformer. `two_stage` adds `transformer_2` as in Wan 2.2 A14B; 3 steps run both.
    """
    pipe = WanPipeline(
        tokenizer=tokenizer(512),
        text_encoder=t5(2, UMT5Config, UMT5EncoderModel),
        vae=seeded(_vae, 1),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=transformer(**config),
        transformer_2=transformer(seed=4, **config) if two_stage else None,
        boundary_ratio=0.875 if two_stage else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )
