"""Score how well pictures fit their captions, by the learned reward of shapes world, a CLIPModel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..zoo.cards import verify_weights
from ..zoo.catalogue import path
from .base import Reward

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel, CLIPProcessor


class ShapesCLIP(Reward):
    """Score pictures by the cosine of picture and caption, differentiable with respect to the picture.

    `folder` holds a CLIPModel with its processor. Without it the shipped weights are loaded, after a check of
    their sha256. The weights are frozen and in float32.
    """

    name = "shapes-clip"

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, device: str | torch.device | None = None
    ):
        import torch
        from transformers import CLIPModel

        home = Path(folder) if folder is not None else path(self.name)
        if not (home / "config.json").is_file():
            raise FileNotFoundError(
                f"a reward folder needs a config.json and {str(home)!r} has none; "
                f"run 'diffusers-ext train {self.name}' and pass the folder it writes"
            )
        if folder is None:
            verify_weights(home)
        model = CLIPModel.from_pretrained(home, dtype=torch.float32)
        self.model = model.requires_grad_(False).eval().to(device or "cpu")
        self.processor = load_processor(home)

    def _score(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return match(self.model, self.processor, images, prompts)


def match(
    model: CLIPModel, processor: CLIPProcessor, images: torch.Tensor, prompts: Sequence[str]
) -> torch.Tensor:
    """Return cosines [B] of the features of images [B, 3, H, W] in 0..1 and of their prompts.

    The text gets no gradients.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    ids = processor.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        read = model.get_text_features(ids.input_ids.to(model.device)).pooler_output
    pixels = preprocess(images.to(model.device, torch.float32), processor.image_processor)
    seen = model.get_image_features(pixels).pooler_output
    return cosine_similarity(seen.float(), read.float())


def load_processor(folder: Path) -> CLIPProcessor:
    """Load the saved processor, with the image processor that needs no torchvision."""
    from transformers import CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPProcessor(CLIPImageProcessorPil.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder))


def preprocess(images: torch.Tensor, processor: Any) -> torch.Tensor:
    """Do what a CLIPImageProcessor does, differentiably, for batches [B, 3, H, W] in 0..1.

    Resizes the shortest side to `size` (bicubic, anti-aliased), crops the centre and normalises. Returns
    [B, 3, crop, crop].
    """
    import torch
    from torch.nn.functional import interpolate

    short, height, width = (
        processor.size["shortest_edge"],
        processor.crop_size["height"],
        processor.crop_size["width"],
    )
    shape = images.shape[-2:]
    if min(shape) != short:
        target = [short * side // min(shape) for side in shape]
        images = interpolate(images, target, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    images = images[..., top : top + height, left : left + width]
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None]
        for v in (processor.image_mean, processor.image_std)
    )
    return (images - mean) / std
