"""What tiny pipelines share: seeded weights, text encoders, autoencoders, a tokenizer made on the spot."""

from collections.abc import Callable
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTokenizer, T5Config, T5EncoderModel

M = TypeVar("M", bound=nn.Module)
LETTERS = "abcdefghijklmnopqrstuvwxyz,."
WORDS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
# for the configs of text encoders; CLIP pools at the end token
SPECIAL = dict(vocab_size=len(WORDS), bos_token_id=len(WORDS) - 2, eos_token_id=len(WORDS) - 1)


def seeded(build: Callable[[], M], seed: int) -> M:
    """The module that `build` makes, in eval mode; the same seed gives the same weights.

    Every weight is moved a little, so that norms and biases, born as ones and zeros, matter in a comparison.
    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build()
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


def tokenizer(length: int) -> CLIPTokenizer:
    """A real CLIP tokenizer of letters: no merges, one token a letter, at most `length` tokens a prompt."""
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, merges=[], model_max_length=length)


def noise(seed: int, dtype: torch.dtype = torch.float32) -> Callable[..., Tensor]:
    """Draws normal tensors of the shapes it is asked for, one after the other, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator).to(dtype)


def t5(seed: int, config: type = T5Config, model: type = T5EncoderModel) -> nn.Module:
    """A T5 encoder of one layer, 32 wide; UMT5 has its own classes."""
    settings = config(
        **SPECIAL, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=1, feed_forward_proj="gated-gelu"
    )
    return seeded(lambda: model(settings), seed)


def clip_config(
    width: int = 32, layers: int = 2, heads: int = 4, length: int = 32, projection: int | None = None
) -> CLIPTextConfig:
    """Of a CLIP text encoder for prompts of at most `length` tokens."""
    return CLIPTextConfig(
        **SPECIAL,
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        projection_dim=projection or width,
    )


def image_vae(**config: object) -> AutoencoderKL:
    """An autoencoder of 2 x 2 pixels a latent, 4 channels."""
    return seeded(
        lambda: AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            **config,
        ),
        1,
    )
