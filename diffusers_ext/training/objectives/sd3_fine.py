"""Train shapes-sd3-256: the transformer of shapes-sd3 with a token for each latent pixel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...zoo.models import refine
from ..data.latents import LatentStream
from ..recipes import SD3FineConfig
from .base import DiffusionObjective, compile_blocks
from .flow import encode, velocity
from .sd3 import SD3Objective

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline


class SD3FineObjective(SD3Objective):
    """Train by flow matching a transformer that starts as the one of `teacher`; other parts are shared.

    The first target is the teacher's velocity, which has no noise of its own and is learned in few samples.
    It then changes to the velocity of the data, so that the student does not keep the teacher's mistakes.
    """

    name = "shapes-sd3-256"
    trained = ("transformer",)
    recipe: SD3FineConfig

    def __init__(
        self,
        teacher: StableDiffusion3Pipeline,
        cache: Path,
        recipe: SD3FineConfig | None = None,
        *,
        seed: int = 0,
        compile: bool = True,
    ):
        torch.manual_seed(seed)
        parts = {**teacher.components, "transformer": refine(teacher.transformer)}
        DiffusionObjective.__init__(
            self, type(teacher)(**parts), recipe or SD3FineConfig(), seed=seed, compile=compile
        )
        self.teacher = teacher.transformer.requires_grad_(False).eval()
        first, reuse = self.recipe.first, self.recipe.reuse
        self.stream = LatentStream(teacher.vae, teacher.tokenizer, cache, seed, first, reuse)

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        self.teacher.to(device)
        if self.compile:
            compile_blocks(self.teacher.transformer_blocks)

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return what flow matching needs, and the share of the teacher in the target."""
        return *super().inputs(step, progress), torch.tensor(self.recipe.taught * (1 - progress))

    def denoising_loss(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        weight: torch.Tensor,
        ids: torch.Tensor,
        t5_ids: torch.Tensor,
        taught: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss; shapes are as for shapes-sd3, and `taught` is a number."""
        with torch.no_grad():
            text = encode(self.pipe, ids, t5_ids)
            wise = velocity(self.pipe, self.teacher, latents, noise, sigma, *text).float()
        found = velocity(self.pipe, self.pipe.transformer, latents, noise, sigma, *text).float()
        return (weight * (found - torch.lerp(noise - latents, wise, taught)).square()).mean()
