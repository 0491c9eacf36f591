"""Train shapes-wan-vae, the autoencoder of clips, by the objective of the autoencoder of pictures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...zoo.models import build_wan_vae
from ...zoo.models.wan import CHANNELS, LATENT, set_statistics, start_without_motion
from ...zoo.world.clips import FRAMES, training_clip
from ...zoo.world.track import verify_clip
from ..checkpoint import generator
from ..recipes import WanVAEConfig
from .vae import PROBE_SEED, VAEObjective, latent_statistics, quality

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

SHORT = 5  # frames of the shorter clips


class WanVAEObjective(VAEObjective):
    """Train an autoencoder to reconstruct clips of the stream `seed`.

    It begins with single frames, goes on with the first SHORT frames, and ends with all. The autoencoder is
    causal and reads four frames at a time. So short clips teach nearly all at half the cost, and single
    frames teach all about space at a tenth.
    """

    config, build = WanVAEConfig, staticmethod(build_wan_vae)
    recipe: WanVAEConfig
    vae: AutoencoderKLWan

    def __init__(self, recipe: WanVAEConfig | None = None, *, seed: int = 0):
        super().__init__(recipe, seed=seed)
        start_without_motion(self.vae)

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        single_frames_as_pictures(self.vae)

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return clips, their loss weights and the noise of the posterior."""
        size, dice = self.recipe.batch, generator(self.seed, step)
        movies, cover = clips(self.seed, step * size, size)
        first, count = 0, FRAMES
        if progress < self.recipe.stills_until:
            first, count = torch.randint(FRAMES, (), generator=dice).item(), 1
        elif progress < self.recipe.short_until:
            count = SHORT
        weight = 1 + self.recipe.foreground * cover[:, :, first : first + count]
        noise = torch.randn(size, CHANNELS, 1 + (count - 1) // 2, *LATENT[1:], generator=dice)
        return movies[:, :, first : first + count], weight / weight.mean(), noise

    def loss(self, movies: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        error, kl = self.terms(movies, noise)
        return (weight * (error.square() + self.recipe.l1 * error.abs())).mean() + self.recipe.kl * kl

    def finish(self, vae: AutoencoderKLWan) -> dict[str, float]:
        set_statistics(vae, *latent_statistics(vae, clips(self.seed, 0, self.recipe.probe)[0]))
        return measure(vae, self.recipe.probe)


def single_frames_as_pictures(vae: AutoencoderKLWan) -> None:
    """Let convolutions over time read a frame without predecessors as a picture.

    They would multiply the frame by their newest weights and zeros by the others, which takes twice the time.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.forward = partial(_newest_frame, module)


def _newest_frame(
    conv: WanCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None
) -> torch.Tensor:
    from torch.nn.functional import conv2d

    if x.shape[2] > 1 or cache_x is not None:
        return type(conv).forward(conv, x, cache_x)
    columns, _, rows, *_ = conv._padding
    return conv2d(x[:, :, 0], conv.weight[:, :, -1], conv.bias, conv.stride[1:], (rows, columns))[:, :, None]


def clips(seed: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips float32 [count, 3, 9, 32, 32] in -1..1 of the training stream from index `first` on.

    Also returns the coverage of their objects [count, 1, 9, 32, 32].
    """
    samples = [training_clip(seed, first + i) for i in range(count)]
    movies = torch.from_numpy(np.stack([s[1] for s in samples]))
    cover = torch.from_numpy(np.stack([s[2] for s in samples]))
    return movies.permute(0, 4, 1, 2, 3).float() / 127.5 - 1, cover[:, None]


def measure(vae: AutoencoderKLWan, count: int) -> dict[str, float]:
    """Return PSNR in dB and the share of reconstructions that follow their script, by the detector."""
    scripts = [training_clip(PROBE_SEED, i)[0] for i in range(count)]
    return quality(vae, clips(PROBE_SEED, 0, count)[0], scripts, verify_clip, 50)
