"""Train shapes-sd3: transformer and text encoders together, on latents of shapes world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...zoo.models import build_sd3
from ..recipes import SD3Config
from .base import FlowObjective
from .flow import TRAINED, flow_loss

if TYPE_CHECKING:
    import torch


class SD3Objective(FlowObjective):
    """Train a StableDiffusion3Pipeline by flow matching."""

    name = "shapes-sd3"
    trained = TRAINED
    config, build = SD3Config, staticmethod(build_sd3)
    recipe: SD3Config
    lengths = 24, 256  # T5 tokens

    def blocks(self) -> list[torch.nn.Module]:
        return list(self.pipe.transformer.transformer_blocks)

    def denoising_loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        return flow_loss(self.pipe, *inputs)
