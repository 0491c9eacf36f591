"""Make the training set of the image models: an endless stream, encoded once, kept in shards, reused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ...zoo.models import LATENT_SIZE
from ...zoo.world.render import training_sample
from .shards import Shards

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import PreTrainedTokenizerBase

    from ..recipes import StreamRecipe

SHARD = 4096  # samples


class Batch(NamedTuple):
    """A batch holds latents [B, 4, 16, 16], token ids [B, 24] and object cover [B, 1, 16, 16].

    Object cover is the share of each latent pixel under objects.
    """

    latents: torch.Tensor
    ids: torch.Tensor
    cover: torch.Tensor


def drop_captions(
    ids: torch.Tensor, share: float, tokenizer: PreTrainedTokenizerBase, generator: torch.Generator
) -> torch.Tensor:
    """Return ids [B, L] with a `share` of the captions emptied, for classifier-free guidance."""
    empty = torch.full_like(ids, tokenizer.pad_token_id)
    empty[:, 0] = tokenizer.bos_token_id
    return torch.where(torch.rand(len(ids), 1, generator=generator) < share, empty, ids)


def object_weight(cover: torch.Tensor, recipe: StreamRecipe, progress: float) -> torch.Tensor:
    """Return the loss weight [B, 1, 16, 16], mean 1, from the share of each latent under objects.

    A small object weighs little in the mean over pixels, so the model would draw blank pictures. The extra
    weight cures that. But it biases the minimum at places that may or may not hold an object, and one object
    too many is drawn. So it fades out early, and most of the run is unweighted.
    """
    weight = 1 + recipe.foreground * max(0.0, 1 - progress / recipe.foreground_until) * cover
    return weight / weight.mean()


class LatentStream:
    """Encode the pictures of the stream `seed`."""

    sample, piece = staticmethod(training_sample), 128  # piece is the number of samples encoded at a time

    def __init__(
        self,
        vae: AutoencoderKL,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        seed: int,
        first: int,
        reuse: int,
    ):
        self.vae, self.tokenizer, self.seed = vae, tokenizer, seed
        self.shards = Shards(folder, SHARD, self._make, first, reuse)

    def batch(self, samples: int, size: int, generator: torch.Generator) -> Batch:
        """Return a batch for the moment when `samples` samples have been used."""
        rows = self.shards.draw(samples, size, generator)
        return Batch(rows["latents"].float(), rows["ids"].long(), rows["cover"].float() / 255)

    def _make(self, number: int, done: int) -> Iterator[dict[str, np.ndarray]]:
        size = self.shards.size
        for start in range(number * size + done, (number + 1) * size, self.piece):
            drawn = (self.sample(self.seed, start + i) for i in range(self.piece))
            specs, images, masks = zip(*drawn, strict=True)
            latents = self.encode(np.stack(images)).cpu().half().numpy()
            cover = (self.cover(np.stack(masks)) * 255).astype(np.uint8)
            captions = [spec.caption for spec in specs]
            ids = np.array(self.tokenizer(captions, padding="max_length").input_ids, np.int16)
            yield {"latents": latents, "ids": ids, "cover": cover}

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """Return the latents of uint8 [B, H, W, 3], or of clips [B, T, H, W, 3]."""
        pixels = torch.from_numpy(images).to(self.vae.device).movedim(-1, 1).float() / 127.5 - 1
        with torch.no_grad():
            return self.vae.encode(pixels).latent_dist.mode().float()

    def cover(self, masks: np.ndarray) -> np.ndarray:
        """Return what objects cover of latent pixels [B, 1, 16, 16], by masks [B, 64, 64] in 0..1."""
        return masks.reshape(-1, 1, LATENT_SIZE, 4, LATENT_SIZE, 4).mean((3, 5))
