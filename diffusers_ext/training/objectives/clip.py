"""Train shapes-clip by contrast in the batch, from the start with captions and pictures one mistake away."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ...rewards.clip import match
from ...zoo.models import build_processor, build_reward
from ...zoo.world.captions import Object, Spec
from ...zoo.world.mistakes import KINDS, may_show, sample_mistakes
from ...zoo.world.preference import Pair, pairs, preferences
from ...zoo.world.render import render
from ...zoo.world.scenes import Scene, sample_scene, sample_spec
from ..checkpoint import generator
from ..machine import precision
from ..prepare import preparing
from ..recipes import CLIPConfig
from .base import plain_attention

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import PreTrainedTokenizerBase

SHARD = 4096  # pictures that are in memory at a time
# Tokens of the longest caption; with causal attention, padding does not change the features.
CAPTION_TOKENS = 13
MAX_SCALE = 100.0  # CLIP's bound on the inverse temperature


class Shard(NamedTuple):
    """A shard holds scenes in pairs one mistake apart, wrong captions, and pictures uint8 [S, 3, 64, 64]."""

    scenes: list[Scene]
    wrong: list[list[Spec]]
    images: torch.Tensor


class CLIPObjective:
    """Train a CLIPModel by contrast on the stream `seed`, with a part of the pictures sent through `vae`.

    The reward will score pictures that an autoencoder decoded, so it has to see such pictures, too. It is not
    compiled, since on a CPU these narrow layers gain nothing by it.

    A run that begins with the weights in the folder `start` leaves the text half as it is. Text encoders of
    other models began with that half, and could not be trained again if it changed.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        recipe: CLIPConfig | None = None,
        *,
        start: Path | None = None,
        seed: int = 0,
    ):
        from transformers import CLIPModel

        self.recipe, self.seed = recipe or CLIPConfig(), seed
        torch.manual_seed(seed)
        self.model, self.processor = build_reward(), build_processor()
        if start is not None:
            self.model = CLIPModel.from_pretrained(start, dtype=torch.float32)
            self.model.text_model.requires_grad_(False)
        self.pipe = self.model  # what export writes
        self.vae = vae.requires_grad_(False).eval()
        self.attention = contextlib.nullcontext
        self._number, self._shard = -1, Shard([], [], torch.empty(0))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def hidden(self, name: str) -> bool:
        return ".layers." in name

    def prepare(self, device: torch.device) -> None:
        if self.recipe.batch % 2 or SHARD % self.recipe.batch:
            raise ValueError(
                f"shapes-clip is trained on pairs of pictures, {SHARD} pictures at a time, and takes a batch "
                f"that is even and divides {SHARD}, got {self.recipe.batch}; 128 and 512 are usual"
            )
        self.model.to(device).train()
        self.vae.to(device)
        if device.type == "cpu":
            self.attention = plain_attention()

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return images, caption ids, which captions count for which image, noise for the pixels."""
        recipe, dice = self.recipe, generator(self.seed, step)
        number, at = divmod(step * recipe.batch, SHARD * recipe.reuse)
        if number != self._number:
            self._number, self._shard = number, self._make(number)
        round_, at = divmod(at, SHARD)
        order = torch.randperm(
            SHARD // 2, generator=generator(self.seed, -1 - number * recipe.reuse - round_)
        )
        chosen = [i for p in order[at // 2 : (at + recipe.batch) // 2].tolist() for i in (2 * p, 2 * p + 1)]
        scenes = [self._shard.scenes[i] for i in chosen]
        captions = [s.spec for s in scenes] + [m for i in chosen for m in self._shard.wrong[i]]
        images = self._shard.images[chosen]
        level = recipe.noise * torch.rand(len(chosen), 1, 1, 1, generator=dice)
        return (
            images,
            tokens(self.processor.tokenizer, captions),
            torch.from_numpy(contrast(scenes, captions)),
            level * torch.randn(images.shape, generator=dice),
        )

    def loss(
        self, images: torch.Tensor, ids: torch.Tensor, counts: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return the cross-entropy of captions for an image and of images for a caption, half and half.

        Images uint8 [B, 3, 64, 64]; ids [M, 13], the captions of the images first, then the wrong ones;
        counts bool [B, M]; noise [B, 3, 64, 64] for pixels in -1..1.
        """
        from torch.nn.functional import cross_entropy, normalize

        with self.attention():
            seen = self.model.get_image_features(images / 127.5 - 1 + noise).pooler_output.float()
            read = self.model.get_text_features(ids).pooler_output.float()
        scale = self.model.logit_scale.exp().clamp(max=MAX_SCALE)
        logits = scale * normalize(seen, dim=-1) @ normalize(read, dim=-1).T
        logits = logits.masked_fill(~counts, -torch.inf)
        right = torch.arange(len(images), device=logits.device)
        return (cross_entropy(logits, right) + cross_entropy(logits[:, : len(images)].T, right)) / 2

    def evaluate(self, sheet: Path | None = None) -> dict[str, float]:
        """Return the share of tuning pairs, by kind of mistake, in which the right picture is preferred."""
        self.model.eval()
        score = partial(match, self.model, self.processor)
        figures = {}
        for kind in KINDS:
            right, _ = preferences(score, _tuning(kind, self.recipe.evaluate_prompts))
            figures[kind] = float(np.mean(right))
        self.model.train()
        return figures

    def _make(self, number: int) -> Shard:
        scenes, wrong = draw(self.seed, number * SHARD, SHARD, self.recipe.negatives)
        images = torch.from_numpy(np.stack([render(s)[0] for s in scenes])).permute(0, 3, 1, 2).contiguous()
        dice = generator(self.seed, -(10**9) - number)
        decoded = round(self.recipe.decoded * SHARD)
        with preparing(f"{SHARD} pictures of the training stream", decoded) as tick:
            for start in range(0, decoded, 32):
                part = images[start : min(start + 32, decoded)]
                part.copy_(decode(self.vae, part, self.recipe.latent_noise, dice))
                tick(len(part))
        return Shard(scenes, wrong, images)


def draw(seed: int, first: int, count: int, negatives: int) -> tuple[list[Scene], list[list[Spec]]]:
    """Draw `count` scenes in pairs one mistake apart, and up to `negatives` further wrong captions for each.

    They are pair `first` / 2 of the stream `seed` and the following ones. No held-out pair of colour and
    shape is drawn or named, no held-out triple is named.
    """
    scenes, wrong = [], []
    for index in range(first // 2, (first + count) // 2):
        rng = np.random.default_rng((seed, index))
        spec = sample_spec(rng)
        for shown in (spec, *sample_mistakes(spec, 1, rng)):
            scenes.append(sample_scene(shown, rng))
            wrong.append(sample_mistakes(shown, negatives, rng))
    return scenes, wrong


def decode(vae: AutoencoderKL, images: torch.Tensor, noise: float, dice: torch.Generator) -> torch.Tensor:
    """Send images uint8 [B, 3, 64, 64] through the autoencoder, with up to `noise` of noise on latents."""
    device = vae.device
    fast = precision() == "bf16"
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=fast):
        latents = vae.encode(images.to(device) / 127.5 - 1).latent_dist.mode().float()
        level = noise * torch.rand(len(images), 1, 1, 1, generator=dice)
        latents = latents + (level * torch.randn(latents.shape, generator=dice)).to(device)
        seen = vae.decode(latents).sample.float()
    return ((seen.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()


def contrast(scenes: Sequence[Scene], captions: Sequence[Spec]) -> np.ndarray:
    """Mark a scene's own caption (equal index) and all that are wrong for it, bool [scenes, captions].

    Captions that happen to be true as well are left out: the same objects in another order, or a relation
    that the picture also obeys.
    """
    counts = np.ones((len(scenes), len(captions)), bool)
    same: dict[tuple[Object, ...], list[int]] = defaultdict(list)
    for j, caption in enumerate(captions):
        same[tuple(sorted(caption.objects))].append(j)
    for i, scene in enumerate(scenes):
        for j in same.get(tuple(sorted(scene.spec.objects)), ()):
            counts[i, j] = i == j or not may_show(scene, captions[j])
    return counts


def tokens(tokenizer: PreTrainedTokenizerBase, captions: Sequence[Spec]) -> torch.Tensor:
    """Return ids [M, 13] of the captions."""
    texts = [c.caption for c in captions]
    return torch.tensor(tokenizer(texts, padding="max_length", max_length=CAPTION_TOKENS).input_ids)


@lru_cache(maxsize=len(KINDS))
def _tuning(kind: str, n: int) -> list[Pair]:
    return pairs("tuning", kind, n)
