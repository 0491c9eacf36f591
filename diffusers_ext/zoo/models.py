"""The tiny networks: stock diffusers and transformers classes, only narrow and shallow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .scenes import SIZE
from .tokenizer import build_tokenizer

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, PreTrainedTokenizerBase, T5EncoderModel

LATENT_CHANNELS = 4
LATENT_SIZE = SIZE // 4  # px of a latent
CLIP_WIDTHS = (128, 32)
CONTEXT_WIDTH = sum(CLIP_WIDTHS)  # SD3 joins the two CLIP outputs side by side and pads them to the T5 width


def build_vae() -> AutoencoderKL:
    """Autoencoder 64x64x3 -> 16x16x4, 0.8 M parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,  # normalise() folds the statistics into the weights, per channel
        shift_factor=0.0,
        mid_block_add_attention=False,
    )


def normalise(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Fold z -> (z - mean) / std, per channel [C], into the 1x1 convolutions around the latent, in place."""
    import torch

    with torch.no_grad():
        into, out = vae.quant_conv, vae.post_quant_conv
        channels = len(mean)
        into.weight[:channels] /= std[:, None, None, None]
        into.bias[:channels] = (into.bias[:channels] - mean) / std
        into.bias[channels:] -= 2 * std.log()  # the other half holds log-variances
        out.bias += out.weight[..., 0, 0] @ mean
        out.weight *= std[None, :, None, None]


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


def build_clip(tokenizer: PreTrainedTokenizerBase, width: int, layers: int) -> CLIPTextModelWithProjection:
    """Causal text encoder with heads of 32 (one head when narrower)."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 32, 1),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def build_t5(tokenizer: PreTrainedTokenizerBase) -> T5EncoderModel:
    """One-layer T5 encoder that reads the CLIP tokenizer's ids."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=CONTEXT_WIDTH,
        d_kv=32,
        d_ff=2 * CONTEXT_WIDTH,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5EncoderModel(config)
