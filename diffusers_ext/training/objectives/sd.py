"""Train shapes-sd: U-Net and text encoder together, on latents of shapes world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...zoo.catalogue import path
from ...zoo.models import build_sd
from ..average import restore
from ..checkpoint import generator
from ..data.latents import drop_captions, object_weight
from ..recipes import SDConfig
from .base import StreamObjective

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel


class SDObjective(StreamObjective):
    """Train a StableDiffusionPipeline to predict v."""

    name = "shapes-sd"
    trained = ("unet", "text_encoder")
    config, build = SDConfig, staticmethod(build_sd)
    recipe: SDConfig

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if not self.given:
            read_reward(self.pipe.text_encoder)

    def blocks(self) -> list[torch.nn.Module]:
        return unet_blocks(self.pipe.unet)

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return latents, noise, timesteps, weight and ids."""
        recipe, dice = self.recipe, generator(self.seed, step)
        batch = self.stream.batch(step * recipe.batch, recipe.batch, dice)
        noise = torch.randn(batch.latents.shape, generator=dice)
        t = spread_timesteps(recipe.batch, self.pipe.scheduler.config.num_train_timesteps, dice)
        ids = drop_captions(batch.ids, recipe.drop, self.pipe.tokenizer, dice)
        return batch.latents, noise, t, object_weight(batch.cover, recipe, progress), ids

    def denoising_loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        return velocity_loss(self.pipe, *inputs, limit=self.recipe.snr)


def read_reward(text_encoder: CLIPTextModel) -> None:
    """Start from the words as shapes-clip reads them, as Stable Diffusion does from CLIP's."""
    from transformers import CLIPModel

    reward = CLIPModel.from_pretrained(path("shapes-clip"), dtype=torch.float32)
    restore(dict(text_encoder.named_parameters()), dict(reward.text_model.named_parameters()))


def velocity_loss(
    pipe: StableDiffusionPipeline,
    latents: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    *,
    limit: float,
) -> torch.Tensor:
    """Return the weighted mean square of the error in v = sqrt(a) noise - sqrt(1 - a) latents.

    a = alphas_cumprod[t] (Salimans and Ho, arXiv 2202.00512, appendix D). `snr_weight` with `limit` weights
    the timesteps. Shapes: latents and noise [B, 4, 16, 16], t [B] integer, weight [B, 1, 16, 16], ids
    [B, 24].
    """
    noisy = pipe.scheduler.add_noise(latents, noise, t)
    velocity = pipe.unet(noisy, t, pipe.text_encoder(ids)[0], return_dict=False)[0]
    error = (velocity.float() - pipe.scheduler.get_velocity(latents, noise, t)).square()
    return (snr_weight(pipe.scheduler, t, limit) * weight * error).mean()


def spread_timesteps(count: int, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Draw integers [count] in random order, one from each of `count` equal parts of 0..steps.

    Batches differ less in how hard they are than with independent draws (Kingma et al., arXiv 2107.00630,
    appendix I.1).
    """
    parts = torch.randperm(count, generator=generator)
    spread = (parts + torch.rand(count, generator=generator)) / count * steps
    return spread.long().clamp(max=steps - 1)  # the sum may round up to the end


def snr_weight(scheduler: DDIMScheduler, t: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the weight [B, 1, 1, 1] of the squared error in v at timesteps [B].

    It is 1 up to the signal-to-noise ratio `limit`. Beyond, it falls like the weight of a squared error in
    the latents with the factor limit + 1. This is Min-SNR (Hang et al., arXiv 2303.09556, section 3.4)
    with 1 added to the ratio. Its own weight for v vanishes on pure noise, with which sampling begins at zero
    terminal SNR.
    """
    alpha = scheduler.alphas_cumprod.to(t.device)[t]
    return ((limit + 1) * (1 - alpha)).clamp(max=1)[:, None, None, None]  # SNR + 1 = 1 / (1 - alpha)


def unet_blocks(unet: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the transformer blocks of a U-Net, the same that diffusers' own regional compile takes.

    Convolutions are not compiled: a compiled autoencoder did not learn on a CPU, and compiling them takes
    minutes.
    """
    from diffusers.models.attention import BasicTransformerBlock

    return [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
