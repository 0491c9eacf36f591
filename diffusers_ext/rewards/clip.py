"""Score how well pictures fit their prompts by a CLIPModel: CLIPScore, PickScore and what builds on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from .base import Reward

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPProcessor

LAION = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class CLIPReward(Reward):
    """Compare pictures with prompts by the frozen CLIPModel in `source`, a folder or a name of the Hub.

    Weights are loaded when they are first needed, to `device`, or to that of the first images. `processor`
    names where tokenizer and image processor are, if not beside the model. With `checkpoint` the picture half
    runs again in the backward pass, which takes less memory and more time.
    """

    source: ClassVar[str]  # where the model is by default
    beside: ClassVar[str | None] = None  # where its processor is, if elsewhere

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        processor: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        checkpoint: bool = False,
    ):
        self.place = os.fspath(model or self.source)
        usual = self.beside if model is None else None
        self.processor_place = os.fspath(processor or usual or self.place)
        self.device, self.dtype, self.checkpoint = device, dtype or torch.float32, checkpoint

    @cached_property
    def model(self) -> CLIPModel:
        """The model, loaded on first use."""
        return self._load().requires_grad_(False).eval().to(self.device or "cpu")

    @cached_property
    def processor(self) -> CLIPProcessor:
        """The tokenizer and the image processor, loaded on first use."""
        return load_processor(self.processor_place)

    def _load(self) -> CLIPModel:
        from safetensors import SafetensorError
        from transformers import CLIPModel

        try:
            model, found = CLIPModel.from_pretrained(self.place, dtype=self.dtype, output_loading_info=True)
        except (SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "mismatched_sizes" not in str(error):
                raise
            what = "have other shapes" if isinstance(error, RuntimeError) else f"cannot be read ({error})"
            raise ValueError(_broken(self.place, what)) from error
        if lacking := sorted(found["missing_keys"]):  # which transformers would make at random
            raise ValueError(_broken(self.place, f"lack {len(lacking)} tensors, first {lacking[0]}"))
        return model

    def _score(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.device = self.device or images.device
        read = read_prompts(self.model, self.processor.tokenizer, prompts)
        return self.scale() * cosine_similarity(exact(self.see(images)), exact(read))

    def see(self, images: Tensor) -> Tensor:
        """Return the projected features [B, D] of images [B, 3, H, W] in 0..1."""

        def features(images: Tensor) -> Tensor:
            return self.model.get_image_features(self.pixels(images).to(self.model.dtype)).pooler_output

        images = exact(images.to(self.model.device))
        return again(features, images) if self.checkpoint else features(images)

    def pixels(self, images: Tensor) -> Tensor:
        """Return what the model sees of images [B, 3, H, W] in 0..1."""
        return preprocess(images, self.processor.image_processor)

    def scale(self) -> float | Tensor:
        """Return what the cosine is multiplied by."""
        return 1.0


class CLIPScore(CLIPReward):
    """Score by the cosine of picture and prompt times the inverse temperature of a CLIPModel.

    Radford et al. 2021 (2103.00020), section 2.3. The default is ViT-H/14 trained on LAION-2B, for which
    good pictures have about 30.
    """

    name, source = "clip-score", LAION

    def scale(self) -> Tensor:
        """Return the inverse temperature that the model was trained with."""
        return self.model.logit_scale.float().exp()


class PickScore(CLIPScore):
    """Score by a CLIPModel that was trained on the choices of users of Pick-a-Pic.

    Kirstain et al. 2023 (2305.01569), equation 1. Good pictures have about 22.
    """

    name, source, beside = "pick-score", "yuvalkirstain/PickScore_v1", LAION


def match(model: CLIPModel, processor: CLIPProcessor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return cosines [B] of the features of images [B, 3, H, W] in 0..1 and of their prompts.

    The text gets no gradients.
    """
    read = read_prompts(model, processor.tokenizer, prompts)
    pixels = preprocess(images.to(model.device, torch.float32), processor.image_processor)
    return cosine_similarity(model.get_image_features(pixels).pooler_output.float(), read.float())


@torch.no_grad()
def read_prompts(model: CLIPModel, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Return the projected features [B, D] of prompts, cut where the model reads no further."""
    ids = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    return model.get_text_features(ids.to(model.device)).pooler_output


def again(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Call a function of images that runs once more in the backward pass and keeps nothing until then.

    The flag of transformers does this in training mode only, and rewards are in evaluation mode.
    """
    from torch.utils.checkpoint import checkpoint

    return checkpoint(function, images, use_reentrant=False)


def exact(values: Tensor) -> Tensor:
    """Return values in float32, or in float64 if they are."""
    return values if values.dtype == torch.float64 else values.float()


def load_processor(place: str | os.PathLike[str]) -> CLIPProcessor:
    """Load the saved processor, with the image processor that needs no torchvision."""
    from transformers import CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPProcessor(CLIPImageProcessorPil.from_pretrained(place), CLIPTokenizer.from_pretrained(place))


def preprocess(images: Tensor, processor: Any) -> Tensor:
    """Do what a CLIPImageProcessor does, differentiably, for batches [B, 3, H, W] in 0..1.

    Resizes the shortest side to `size` (bicubic, anti-aliased), crops the centre and normalises. Returns
    [B, 3, crop, crop].
    """
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
        torch.tensor(v, device=images.device, dtype=images.dtype)[:, None, None]
        for v in (processor.image_mean, processor.image_std)
    )
    return (images - mean) / std


def _broken(place: str | os.PathLike[str], what: str) -> str:
    return (
        f"the weights of the reward in {os.fspath(place)!r} {what}, so they are not those of its "
        "config.json; fetch or copy it again"
    )
