"""Score pictures as people rank them, by ImageReward, on the BLIP layers of transformers."""

from __future__ import annotations

import os
import re
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .aesthetic import layers
from .base import Reward
from .clip import again, exact, preprocess
from .weights import locate, read_weights

if TYPE_CHECKING:
    from transformers import BertTokenizer

FILE = "ImageReward.pt"
HEADS = 12, 16  # text, pictures
TOKENS = 35  # of a prompt, cut or filled up
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw scores of the published model
_COLOURS = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_NAMES = {  # of the published file and of transformers, in the half that sees
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "norm": "post_layernorm",
}


class ImageReward(Reward):
    """Score by a BLIP model that reads the prompt while it looks at the picture, trained on human rankings.

    Xu et al. 2023 (2304.05977), section 3. Scores have mean 0 and deviation 1 on its own data. `model` is the
    published file, on this machine or on the Hub. `tokenizer` is that of BERT, uncased. Weights are loaded on
    first use. With `checkpoint` the model runs again in the backward pass, which takes less memory.
    """

    name = "image-reward"

    def __init__(
        self,
        model: str | os.PathLike[str] = "THUDM/ImageReward",
        *,
        tokenizer: str | os.PathLike[str] = "google-bert/bert-base-uncased",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        checkpoint: bool = False,
    ):
        self.place, self.tokenizer_place = os.fspath(model), os.fspath(tokenizer)
        self.device, self.dtype, self.checkpoint = device, dtype or torch.float32, checkpoint

    @cached_property
    def model(self) -> Blip:
        """The model, loaded on first use."""
        model = from_published(read_weights(locate(self.place, FILE)))
        return model.requires_grad_(False).eval().to(self.device or "cpu", self.dtype)

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        """The tokenizer, loaded on first use."""
        from transformers import BertTokenizer

        return BertTokenizer.from_pretrained(self.tokenizer_place)

    def _score(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.device = self.device or images.device
        there = self.model.head[0].weight
        asked = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(there.device)
        side = self.model.side
        size = SimpleNamespace(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **_COLOURS
        )

        def raw(images: Tensor) -> Tensor:
            pixels = preprocess(images, size).to(there.dtype)
            return self.model(pixels, asked.input_ids, asked.attention_mask)

        images = exact(images.to(there.device))
        return (exact(again(raw, images) if self.checkpoint else raw(images)) - MEAN) / STD


class Blip(nn.Module):
    """The network of ImageReward: a half that sees, a half that reads, and linear layers."""

    def __init__(self, vision: nn.Module, text: nn.Module, head: nn.Sequential):
        super().__init__()
        self.vision, self.text, self.head = vision, text, head
        self.side: int = vision.config.image_size

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return raw scores [B] of pixels [B, 3, H, W] and of token ids [B, L] with their mask."""
        seen = self.vision(pixels).last_hidden_state
        read = self.text(
            ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=seen.device, dtype=mask.dtype),
            is_decoder=False,
        )
        return self.head(read.last_hidden_state[:, 0])[:, 0]


def from_published(tensors: dict[str, Tensor], heads: tuple[int, int] = HEADS) -> Blip:
    """Build the network of the published tensors.

    `heads` are those of text and pictures, which no shape shows. Raises `ValueError` if tensors are missing.
    """
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    eyes, words = _below(tensors, "blip.visual_encoder."), _below(tensors, "blip.text_encoder.")
    if not (eyes and words):
        raise ValueError(
            "weights of ImageReward have the halves blip.visual_encoder and blip.text_encoder, and these "
            f"have not; pass {FILE}"
        )
    width, patch = eyes["patch_embed.proj.weight"].shape[0], eyes["patch_embed.proj.weight"].shape[-1]
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=eyes["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count(eyes, r"blocks\.(\d+)\."),
        num_attention_heads=heads[1],
        image_size=round((eyes["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    vocabulary, hidden = words["embeddings.word_embeddings.weight"].shape
    text = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        encoder_hidden_size=width,
        intermediate_size=words["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count(words, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=heads[0],
        max_position_embeddings=words["embeddings.position_embeddings.weight"].shape[0],
    )
    head = nn.Sequential()
    for weight, bias in layers(_below(tensors, "mlp.")):
        layer = nn.Linear(*reversed(weight.shape))
        layer.load_state_dict({"weight": weight, "bias": bias})
        head.append(layer)
    model = Blip(BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False), head)
    model.vision.load_state_dict({_renamed(key): value for key, value in eyes.items()})
    own = model.text.state_dict().keys()  # the file also has position ids, and what it was trained with
    model.text.load_state_dict({key: value for key, value in words.items() if key in own})
    return model


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    return len({found[1] for key in tensors if (found := re.match(pattern, key))})


def _renamed(key: str) -> str:
    """Return the name that transformers has for a tensor of the half that sees."""
    home, rest = "", key
    if block := re.match(r"blocks\.(\d+)\.(.+)", key):
        home, rest = f"encoder.layers.{block[1]}.", block[2]
    stem, dot, kind = rest.rpartition(".")
    stem, dot, kind = (stem, dot, kind) if kind in ("weight", "bias") else (rest, "", "")
    return home + _NAMES.get(stem, stem) + dot + kind
