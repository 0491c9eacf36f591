"""Build the learned reward: a CLIPModel for captions of shapes world and pictures in 8x8 patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..world.scenes import SIZE
from .tokenizer import build_tokenizer, clip_tokens

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTextModel

PATCH = 8  # px
WIDTH = 128
TEXT_LAYERS, VISION_LAYERS = 3, 4
MEAN = STD = 0.5  # pictures come as -1..1
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": WIDTH // 32,
    "hidden_act": "gelu",  # a single kernel; CLIP's quick_gelu takes two more passes over the memory
}


def build_reward() -> CLIPModel:
    """Build an untrained CLIPModel of 1.5 M parameters with features [B, 128]."""
    from transformers import CLIPConfig, CLIPModel

    vision = {**TOWER, "num_hidden_layers": VISION_LAYERS, "image_size": SIZE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=text_config(), vision_config=vision, projection_dim=WIDTH))


def build_text_tower() -> CLIPTextModel:
    """Build the text half alone, untrained. It is the text encoder of shapes-sd."""
    from transformers import CLIPTextModel

    return CLIPTextModel(text_config())


def text_config() -> CLIPTextConfig:
    """Return the config of the text half: 3 layers of 128, a token for each word of the grammar."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(**TOWER, num_hidden_layers=TEXT_LAYERS, **clip_tokens(build_tokenizer()))


def build_processor() -> CLIPProcessor:
    """Build the tokenizer and image processor of the model; this needs no torchvision."""
    from transformers import CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    return CLIPProcessor(pictures, build_tokenizer())
