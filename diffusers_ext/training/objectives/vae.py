"""Train shapes-vae: squared and absolute error plus a very small KL term, on pictures drawn when needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...zoo.models import build_vae, normalise
from ...zoo.world.detect import verify
from ...zoo.world.render import training_sample
from ..average import averaged
from ..checkpoint import generator, load_checkpoint
from ..log import Log
from ..recipes import VAEConfig

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLWan

PROBE_SEED = 1_000_001  # pictures that no training run draws


class VAEObjective:
    """Train an autoencoder to reconstruct the pictures of the stream `seed`.

    It is not compiled: on a CPU the compiled objective was slower and did not learn.
    """

    config: type[VAEConfig] = VAEConfig
    build: Callable[[], AutoencoderKL | AutoencoderKLWan] = staticmethod(build_vae)

    def __init__(self, recipe: VAEConfig | None = None, *, seed: int = 0):
        self.recipe, self.seed = recipe or self.config(), seed
        torch.manual_seed(seed)
        self.vae = self.build()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.vae.named_parameters())

    def hidden(self, name: str) -> bool:
        return False

    def prepare(self, device: torch.device) -> None:
        self.vae.to(device).train()

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return images and the noise of the posterior."""
        size = self.recipe.batch
        noise = torch.randn(size, 4, 16, 16, generator=generator(self.seed, step))
        return pictures(self.seed, step * size, size), noise

    def terms(self, seen: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the error of what is decoded from a draw of the posterior, and the KL of the posterior."""
        posterior = self.vae.encode(seen).latent_dist
        mean, var, log = posterior.mean.float(), posterior.var.float(), posterior.logvar.float()
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample.float()
        return decoded - seen, 0.5 * (mean.square() + var - 1 - log).mean()

    def loss(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        error, kl = self.terms(images, noise)
        return error.square().mean() + self.recipe.l1 * error.abs().mean() + self.recipe.kl * kl

    def evaluate(self, sheet: Path | None = None) -> dict[str, float]:
        return {}

    def export(self, run: Path) -> AutoencoderKL:
        """Write the averaged weights, with the statistics of the latents, to `run`/vae, and their quality to
        the log.
        """
        state = load_checkpoint(run / "checkpoint.pt")
        averaged(self, state)
        vae = self.vae.to("cpu").eval()
        quality = self.finish(vae)
        samples = state["step"] * self.recipe.batch
        Log(run / "log.jsonl").write(step=state["step"], samples=samples, seconds=state["seconds"], **quality)
        vae.save_pretrained(run / "vae")
        return vae

    def finish(self, vae: AutoencoderKL) -> dict[str, float]:
        """Put the statistics of the latents into the trained `vae`, and measure it."""
        normalise(vae, *latent_statistics(vae, pictures(self.seed, 0, self.recipe.probe)))
        return measure(vae, self.recipe.probe)


def pictures(seed: int, first: int, count: int) -> torch.Tensor:
    """Return images float32 [count, 3, 64, 64] in -1..1 of the training stream, from index `first` on."""
    stack = np.stack([training_sample(seed, first + i)[1] for i in range(count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def latent_statistics(vae: Any, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each latent channel over pictures or clips."""
    with torch.no_grad():
        latents = vae.encode(seen).latent_dist.mean
    others = [0, *range(2, latents.ndim)]
    return latents.mean(others), latents.std(others)


def measure(vae: AutoencoderKL, count: int) -> dict[str, float]:
    """Return PSNR in dB and the share of reconstructions in which the detector finds exactly the scene."""
    specs = [training_sample(PROBE_SEED, i)[0] for i in range(count)]
    return quality(vae, pictures(PROBE_SEED, 0, count), specs, verify, 100)


def quality(
    vae: Any, images: torch.Tensor, asked: Sequence[Any], verify: Callable[[np.ndarray, Any], Any], size: int
) -> dict[str, float]:
    """Return PSNR in dB and the share of reconstructions that `verify` finds right, `size` at a time.

    Images are pictures [B, 3, H, W] or clips [B, 3, T, H, W] in -1..1, and show what `asked` says.
    """
    seen = reconstruct(vae, images, size).clamp(-1, 1)
    mse = (seen - images).square().mean().item() / 4
    arrays = ((seen + 1) * 127.5).round().byte().movedim(1, -1).numpy()
    exact = [verify(array, spec).correct for array, spec in zip(arrays, asked, strict=True)]
    return {"psnr_db": -10 * math.log10(mse), "exact": float(np.mean(exact))}


def reconstruct(vae: Any, images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images through encoder and decoder, `size` at a time."""
    with torch.no_grad():
        return torch.cat([vae.decode(vae.encode(b).latent_dist.mode()).sample for b in images.split(size)])
