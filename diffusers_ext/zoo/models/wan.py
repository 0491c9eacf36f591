"""Build the video model: a WanPipeline of 5 x 4 x 4 tokens for clips of 9 frames of 32 x 32 px."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..world.clips import FRAMES, SIDE
from .components import silence, t5_settings
from .tokenizer import build_tokenizer

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

CHANNELS = 16
LATENT = (1 + (FRAMES - 1) // 2, SIDE // 4, SIDE // 4)  # frames, height, width of a clip's latent
WIDTH, HEADS, LAYERS = 128, 4, 6


def build_wan_vae() -> AutoencoderKLWan:
    """Build a causal video autoencoder 9x32x32x3 -> 5x8x8x16 of 1.1 M parameters.

    2x2 pixels are folded into channels first, as in Wan 2.2: convolutions at full size would take most of the
    time.
    """
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=24,
        z_dim=CHANNELS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )


def start_without_motion(vae: AutoencoderKLWan) -> None:
    """Let convolutions over time begin with the newest frame alone.

    Each latent frame then holds the last of its two frames and is shown twice. So what still pictures teach
    serves clips from the first step on.
    """
    import torch

    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith("time_conv"):
                channels = module.in_channels
                module.weight.zero_()
                module.bias.zero_()
                newest = module.weight[:, :, -1, 0, 0].unflatten(0, (-1, channels))
                newest.copy_(torch.eye(channels).expand_as(newest))
            elif isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1:
                module.weight[:, :, :-1].zero_()


def build_wan(vae: AutoencoderKLWan) -> WanPipeline:
    """Build an untrained Wan pipeline around a trained autoencoder.

    It has 80 tokens, and 2.3 M parameters with its text encoder.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

    tokenizer = build_tokenizer()
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=64,
        ffn_dim=4 * WIDTH,
        num_layers=LAYERS,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
    start_as_identity(transformer)
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=build_umt5(tokenizer),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=transformer,
    )


def build_umt5(tokenizer: PreTrainedTokenizerBase) -> UMT5EncoderModel:
    """Build a two-layer UMT5 encoder that reads the CLIP tokenizer's ids."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**t5_settings(tokenizer, WIDTH, layers=2, heads=HEADS)))


def start_as_identity(transformer: WanTransformer3DModel) -> None:
    """Set each gate and the last projections to zero (adaLN-Zero of DiT).

    The projections are those out of cross-attention and out of the model.
    """
    import torch

    embedder = transformer.condition_embedder
    layers = [embedder.time_proj, transformer.proj_out]
    layers += [block.attn2.to_out[0] for block in transformer.blocks]
    silence(layers)
    with torch.no_grad():
        for block in transformer.blocks:
            block.scale_shift_table.zero_()


def set_statistics(vae: AutoencoderKLWan, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Put the statistics of the latent channels [C] into the config, from which Wan pipelines read them."""
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def normalised(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Return latents [B, C, T, H, W] as the denoiser sees them; the pipeline undoes this before decoding."""
    import torch

    mean, std = (
        torch.tensor(v, device=latents.device).view(1, -1, 1, 1, 1)
        for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std
