"""What several tiny pipelines share: seeded weights and a tokenizer made on the spot."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from transformers import CLIPTokenizer

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
