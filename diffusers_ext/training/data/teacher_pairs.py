"""Make pairs with a teacher: start and end of its guided trajectories from noise, with their captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ...zoo.models import LATENT_CHANNELS, LATENT_SIZE
from ...zoo.world.scenes import sample_spec
from ..checkpoint import generator
from ..machine import precision
from .shards import Shards

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SHARD = 512  # pairs
BATCH = 128  # pictures the teacher makes at a time


class Pairs(NamedTuple):
    """Hold noise [B, 4, 16, 16], the latents made of it [B, 4, 16, 16] and token ids [B, 24]."""

    noise: torch.Tensor
    latents: torch.Tensor
    ids: torch.Tensor


class TeacherPairs:
    """Make pairs for the captions of the training stream `seed`, by the pipeline `teacher` with `call`."""

    def __init__(
        self,
        teacher: StableDiffusionPipeline,
        call: Mapping[str, Any],
        folder: Path,
        seed: int,
        first: int,
        reuse: int,
    ):
        self.teacher, self.call, self.seed = teacher, dict(call), seed
        self.shards = Shards(folder, SHARD, self._make, first, reuse)

    def batch(self, used: int, size: int, generator: torch.Generator) -> Pairs:
        """Return a batch for the moment when `used` pairs have been used."""
        rows = self.shards.draw(used, size, generator)
        return Pairs(rows["noise"].float(), rows["latents"].float(), rows["ids"].long())

    def _make(self, number: int, done: int) -> Iterator[dict[str, np.ndarray]]:
        size, device = self.shards.size, self.teacher.device
        texts = captions(self.seed, number * size, size)
        shape = size, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE
        noise = torch.randn(shape, generator=generator(self.seed, number)).half()
        for start in range(done, size, BATCH):
            part = slice(start, start + BATCH)
            given = noise[part].float().to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision() == "bf16"):
                ends = self.teacher(texts[part], latents=given, output_type="latent", **self.call).images
            yield {
                "noise": noise[part].numpy(),
                "latents": ends.float().cpu().half().numpy(),
                "ids": token_ids(self.teacher.tokenizer, texts[part]).to(torch.int16).numpy(),
            }


def captions(seed: int, first: int, count: int) -> list[str]:
    """Return captions of the training stream `seed` from sample `first` on, without drawing the pictures."""
    return [sample_spec(np.random.default_rng((seed, first + i))).caption for i in range(count)]


def token_ids(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Return ids [B, 24] of captions, padded as the stock pipeline pads them."""
    return tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
