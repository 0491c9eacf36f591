"""Train shapes-sd3: transformer and text encoders together, on latents of shapes world."""

from __future__ import annotations

import torch

from ...zoo.models import build_sd3
from ..recipes import SD3Config
from .base import FlowObjective
from .flow import TRAINED, encode, velocity


class SD3Objective(FlowObjective):
    """Train a StableDiffusion3Pipeline by flow matching."""

    name = "shapes-sd3"
    trained = TRAINED
    config, build = SD3Config, staticmethod(build_sd3)
    recipe: SD3Config
    lengths = 24, 256  # T5 tokens

    def blocks(self) -> list[torch.nn.Module]:
        return list(self.pipe.transformer.transformer_blocks)

    def denoising_loss(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        weight: torch.Tensor,
        ids: torch.Tensor,
        t5_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Return the weighted mean square of v - (noise - latents) at x = (1 - sigma) latents + sigma noise.

        Shapes: latents and noise [B, 4, 16, 16], sigma [B], weight [B, 1, 16, 16], ids [B, 24], t5_ids
        [B, L].
        """
        text = encode(self.pipe, ids, t5_ids)
        found = velocity(self.pipe, self.pipe.transformer, latents, noise, sigma, *text)
        return (weight * (found.float() - (noise - latents)).square()).mean()
