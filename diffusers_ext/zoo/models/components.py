"""Build the components that the pipelines share: the autoencoder and the text encoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..world.scenes import SIZE
from .tokenizer import clip_tokens

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL
    from torch import nn
    from transformers import CLIPTextModelWithProjection, PreTrainedTokenizerBase, T5EncoderModel

LATENT_CHANNELS = 4
LATENT_SIZE = SIZE // 4  # px of a latent
CLIP_WIDTHS = (128, 32)
CONTEXT_WIDTH = sum(CLIP_WIDTHS)  # SD3 joins the two CLIP outputs side by side and pads them to the T5 width


def build_vae() -> AutoencoderKL:
    """Build an autoencoder 64x64x3 -> 16x16x4 of 0.8 M parameters."""
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


def build_clip(tokenizer: PreTrainedTokenizerBase, width: int, layers: int) -> CLIPTextModelWithProjection:
    """Build a causal text encoder with heads of 32 (one head if narrower) and pooled features."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 32, 1),
        **clip_tokens(tokenizer),
    )
    return CLIPTextModelWithProjection(config)


def build_t5(tokenizer: PreTrainedTokenizerBase) -> T5EncoderModel:
    """Build a one-layer T5 encoder that reads the CLIP tokenizer's ids."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**t5_settings(tokenizer, CONTEXT_WIDTH, layers=1, heads=4)))


def t5_settings(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, heads: int) -> dict[str, Any]:
    """Return what the configs of T5 and UMT5 encoders have in common."""
    return {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": 32,
        "d_ff": 2 * width,
        "num_layers": layers,
        "num_heads": heads,
        "dropout_rate": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }


def silence(layers: Iterable[nn.Module]) -> None:
    """Set weights and biases to zero."""
    import torch

    with torch.no_grad():
        for layer in layers:
            layer.weight.zero_()
            layer.bias.zero_()
