"""Learns shapes-sd3: transformer and text encoders together, on latents of the shapes world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..models import build_sd3
from .config import SD3Config
from .diffusion import StreamObjective
from .flow import TRAINED, flow_loss, lengthen
from .latents import drop_captions, object_weight
from .loop import generator

if TYPE_CHECKING:
    import torch

SHORT_TEXT, LONG_TEXT = 24, 256  # T5 tokens: our call default and the default of the stock pipeline


class SD3Objective(StreamObjective):
    """Flow matching for a StableDiffusion3Pipeline."""

    name = "shapes-sd3"
    trained = TRAINED
    config, build = SD3Config, staticmethod(build_sd3)
    recipe: SD3Config

    def hidden(self, name: str) -> bool:
        return "transformer_blocks" in name

    def blocks(self) -> list[torch.nn.Module]:
        return list(self.pipe.transformer.transformer_blocks)

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Latents, noise, sigma, weight, CLIP ids and T5 ids."""
        import torch

        recipe, dice = self.recipe, generator(self.seed, step)
        batch = self.stream.batch(step * recipe.batch, recipe.batch, dice)
        noise = torch.randn(batch.latents.shape, generator=dice)
        sigma = torch.sigmoid(torch.randn(recipe.batch, generator=dice) + recipe.t_mean)
        ids = drop_captions(batch.ids, recipe.drop, self.pipe.tokenizer, dice)
        weight = object_weight(batch.cover, recipe, progress)
        share = recipe.long_text_late if progress >= recipe.long_text_from else recipe.long_text
        long = torch.rand((), generator=dice).item() < share
        t5_ids = lengthen(ids, LONG_TEXT if long else SHORT_TEXT, self.pipe.tokenizer.pad_token_id)
        return batch.latents, noise, sigma, weight, ids, t5_ids

    def denoising_loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        return flow_loss(self.pipe, *inputs)
