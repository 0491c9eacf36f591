"""Score how pleasing pictures are, whatever their prompts, by a linear predictor on features of CLIP."""

from __future__ import annotations

import os
import re
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from .clip import CLIPReward, exact
from .weights import locate, read_weights

FILE = "aesthetic-model.pth"


class Aesthetic(CLIPReward):
    """Predict the mean rating, about 1 to 10, that people give a picture; prompts are not read.

    The LAION aesthetic predictor V2 of Schuhmann: normalised features of CLIP ViT-L/14, then linear layers
    768-1024-128-64-16-1 with nothing between them. `head` is the file of these layers, as safetensors or
    from torch.save, a folder with it, or a name of the Hub.
    """

    name, source = "aesthetic", "openai/clip-vit-large-patch14"

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        head: str | os.PathLike[str] = "trl-lib/ddpo-aesthetic-predictor",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        checkpoint: bool = False,
    ):
        super().__init__(model, device=device, dtype=dtype, checkpoint=checkpoint)
        self.head_place = head

    @cached_property
    def head(self) -> list[tuple[Tensor, Tensor]]:
        """The weights [out, in] and biases [out] of the linear layers, loaded on first use."""
        found = layers(read_weights(locate(self.head_place, FILE)))
        width = self.model.config.projection_dim
        if found[0][0].shape[1] != width:
            raise ValueError(
                f"the head of an aesthetic predictor reads the {width} features of its CLIP model, and this "
                f"one reads {found[0][0].shape[1]}; choose the model that it was trained on"
            )
        return [(weight.to(self.model.device), bias.to(self.model.device)) for weight, bias in found]

    def _score(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.device = self.device or images.device
        values = normalize(exact(self.see(images)), dim=-1)
        for weight, bias in self.head:
            values = linear(values, weight.to(values.dtype), bias.to(values.dtype))
        return values[:, 0]


def layers(tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return weights and biases of linear layers in the order of their numbers.

    Layers between them, such as dropout, have numbers and no weights. Raises `ValueError` if the layers do
    not follow each other down to one number.
    """
    numbers = sorted({int(m[1]) for key in tensors if (m := re.search(r"(?:^|\.)(\d+)\.weight$", key))})
    found = []
    for number in numbers:
        (prefix,) = {
            k.removesuffix(".weight") for k in tensors if re.search(rf"(?:^|\.){number}\.weight$", k)
        }
        if f"{prefix}.bias" in tensors:
            found.append((tensors[f"{prefix}.weight"].float(), tensors[f"{prefix}.bias"].float()))
    widths = [weight.shape for weight, _ in found]
    if not found or any(a[0] != b[1] for a, b in pairwise(widths)) or widths[-1][0] != 1:
        raise ValueError(
            "an aesthetic predictor is linear layers that follow each other down to one number, got "
            f"{[list(w) for w in widths]}; pass the file of its head"
        )
    return found
