"""The training set of the image models: an endless stream, encoded once, kept in shards, reused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..models import LATENT_SIZE
from ..render import training_sample

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL
    from transformers import PreTrainedTokenizerBase

    from .config import StreamRecipe

SHARD = 4096  # samples


class Batch(NamedTuple):
    """Latents [B, 4, 16, 16], token ids [B, 24] and the share of each latent under objects [B, 1, 16, 16]."""

    latents: torch.Tensor
    ids: torch.Tensor
    cover: torch.Tensor


def drop_captions(
    ids: torch.Tensor, share: float, tokenizer: PreTrainedTokenizerBase, generator: torch.Generator
) -> torch.Tensor:
    """Ids [B, L] with a `share` of the captions emptied, for classifier-free guidance."""
    import torch

    empty = torch.full_like(ids, tokenizer.pad_token_id)
    empty[:, 0] = tokenizer.bos_token_id
    return torch.where(torch.rand(len(ids), 1, generator=generator) < share, empty, ids)


def object_weight(cover: torch.Tensor, recipe: StreamRecipe, progress: float) -> torch.Tensor:
    """Loss weight [B, 1, 16, 16], mean 1, from the share of each latent under objects.

    A small object weighs little in the mean over pixels, and blank pictures result. The extra weight cures
    that but biases the minimiser wherever an object may or may not be (one too many is drawn), so it fades
    out early and most of the run is unweighted.
    """
    weight = 1 + recipe.foreground * max(0.0, 1 - progress / recipe.foreground_until) * cover
    return weight / weight.mean()


class LatentStream:
    """Samples 0, 1, 2, ... of the stream `seed`; shards missing on disk are made again, identically."""

    def __init__(
        self,
        vae: AutoencoderKL,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        seed: int,
        first: int,
        reuse: int,
    ):
        self.vae, self.tokenizer, self.folder = vae, tokenizer, folder
        self.seed, self.first, self.reuse = seed, first, reuse
        self._latents: list[torch.Tensor] = []
        self._ids: list[torch.Tensor] = []
        self._cover: list[torch.Tensor] = []

    def batch(self, samples: int, size: int, generator: torch.Generator) -> Batch:
        """A batch for the moment when `samples` samples have been used.

        The stream grows by one sample for each `reuse` used: training starts after `first` samples instead of
        after the whole set, and never runs out of new ones.
        """
        import torch

        known = max(self.first, samples // self.reuse) // SHARD + 1
        while len(self._latents) < known:
            self._load(len(self._latents))
        index = torch.randint(known * SHARD, (size,), generator=generator).tolist()
        shard, at = [i // SHARD for i in index], [i % SHARD for i in index]
        latents = torch.stack([self._latents[s][i] for s, i in zip(shard, at, strict=True)]).float()
        ids = torch.stack([self._ids[s][i] for s, i in zip(shard, at, strict=True)]).long()
        cover = torch.stack([self._cover[s][i] for s, i in zip(shard, at, strict=True)]).float() / 255
        return Batch(latents, ids, cover)

    def _load(self, number: int) -> None:
        import torch

        path = self.folder / f"{number:04d}.npz"
        if path.exists():
            with np.load(path) as file:
                latents, ids, cover = file["latents"], file["ids"], file["cover"]
        else:
            latents, ids, cover = self._make(number)
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".tmp.npz")
            np.savez(fresh, latents=latents, ids=ids, cover=cover)
            fresh.replace(path)
        self._latents.append(torch.from_numpy(latents))
        self._ids.append(torch.from_numpy(ids))
        self._cover.append(torch.from_numpy(cover))

    def _make(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import torch

        latents, ids, covers = [], [], []
        for start in range(number * SHARD, (number + 1) * SHARD, 128):
            samples = [training_sample(self.seed, start + i) for i in range(128)]
            images = torch.from_numpy(np.stack([image for _, image, _ in samples]))
            images = images.to(self.vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.no_grad():
                latents.append(self.vae.encode(images).latent_dist.mode().float().cpu().half().numpy())
            cells = np.stack([mask for _, _, mask in samples]).reshape(128, 1, LATENT_SIZE, 4, LATENT_SIZE, 4)
            covers.append((cells.mean((3, 5)) * 255).astype(np.uint8))
            captions = [spec.caption for spec, _, _ in samples]
            ids.append(np.array(self.tokenizer(captions, padding="max_length").input_ids, np.int16))
        return np.concatenate(latents), np.concatenate(ids), np.concatenate(covers)
