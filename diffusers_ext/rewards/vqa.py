"""Score pictures by the answer to a question about them, with the optional package imscore."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .base import Reward
from .clip import again

MEAN = (0.48145466, 0.4578275, 0.40821073)  # the colour of bars that make a picture square


class VQAScore(Reward):
    """Score by the likelihood of "Yes" to the question if the picture shows the prompt.

    Lin et al. 2024 (2404.01291), equation 1. The model has 11 B parameters, in bfloat16 unless `dtype` says
    otherwise. It is loaded on first use, and the package imscore runs it, picture by picture. Raises
    `ImportError` without imscore.
    """

    name = "vqa-score"

    def __init__(
        self,
        model: str | os.PathLike[str] = "RE-N-Y/clip-t5-xxl",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        checkpoint: bool = False,
    ):
        self.place = os.fspath(model)
        self.device, self.dtype, self.checkpoint = device, dtype or torch.bfloat16, checkpoint

    @cached_property
    def model(self) -> Any:
        """The model of imscore, loaded on first use."""
        try:
            from imscore.vqascore.model import VQAScore as Model
        except ImportError as error:
            raise ImportError(
                f"VQAScore needs the optional package imscore ({error}); install it by "
                "pip install 'diffusers-ext[rewards]'"
            ) from error
        model = Model.from_pretrained(self.place)
        return model.requires_grad_(False).eval().to(self.device or "cpu", self.dtype)

    def _score(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.device = self.device or images.device
        there = next(self.model.parameters())
        pictures = square(images.to(there.device, torch.float32)).split(1)
        # One by one: imscore returns the mean of a batch, whose prompts would also fill each other up.
        return torch.stack(
            [self._one(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]
        )

    def _one(self, picture: Tensor, prompt: str) -> Tensor:
        def likelihood(picture: Tensor) -> Tensor:
            return self.model.score(picture, [prompt]).float().reshape(())

        return again(likelihood, picture) if self.checkpoint else likelihood(picture)


def square(images: Tensor) -> Tensor:
    """Make images [B, 3, H, W] square by bars in the mean colour, the picture in the middle."""
    side, (height, width) = max(images.shape[-2:]), images.shape[-2:]
    top, left = (side - height) // 2, (side - width) // 2
    colour = torch.tensor(MEAN, device=images.device, dtype=images.dtype)[:, None, None]
    found = colour.expand(len(images), 3, side, side).clone()
    found[..., top : top + height, left : left + width] = images
    return found
