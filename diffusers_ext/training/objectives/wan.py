"""Train shapes-wan: transformer and text encoder together, on latents of clips."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...outputs.files import replacing
from ...zoo.models import build_wan
from ...zoo.models.wan import LATENT, normalised
from ...zoo.world.clips import SIDE, training_clip, training_still
from ...zoo.world.motion import Script, parse
from ...zoo.world.suites import VIDEO_TASKS
from ...zoo.world.track import verify_clip
from ..average import restore
from ..checkpoint import generator
from ..data.latents import LatentStream, object_weight
from ..progress import score
from ..provenance import of_text
from ..recipes import WanConfig
from .base import FlowObjective, flow_inputs
from .flow import velocity
from .text_encoder import imitate_reward

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanPipeline

SHORT_TEXT, LONG_TEXT = 24, 512  # tokens: our call default and the default of the stock pipeline


class ClipStream(LatentStream):
    """Encode clips of the training stream as latents [B, 16, 5, 8, 8], normalised for the denoiser."""

    sample, piece = staticmethod(training_clip), 64

    def encode(self, frames: np.ndarray) -> torch.Tensor:
        return normalised(self.vae, super().encode(frames))

    def cover(self, masks: np.ndarray) -> np.ndarray:
        return latent_cover(masks)


class StillStream(ClipStream):
    """Encode single frames of objects at rest as latents [B, 16, 1, 8, 8]."""

    sample = staticmethod(training_still)


class WanObjective(FlowObjective):
    """Train a WanPipeline by flow matching, on clips and also on single frames.

    A frame costs a fifth of a clip's tokens. Both teach which colour goes with which shape, which is learned
    last.
    """

    name = "shapes-wan"
    trained = ("transformer", "text_encoder")
    config, build, data = WanConfig, staticmethod(build_wan), ClipStream
    recipe: WanConfig
    lengths = SHORT_TEXT, LONG_TEXT

    def __init__(
        self,
        vae: AutoencoderKLWan,
        cache: Path,
        recipe: WanConfig | None = None,
        **options: Any,
    ):
        super().__init__(vae, cache, recipe, **options)
        first, reuse = self.recipe.first, self.recipe.stills_reuse
        self.stills = StillStream(vae, self.pipe.tokenizer, cache / "stills", self.seed, first, reuse)
        if not self.given and self.recipe.text_steps:
            reader = of_text("shapes-clip")
            self._learn_to_read(cache / f"text-{self.recipe.text_steps}-{reader[:12]}.safetensors")

    def _learn_to_read(self, kept: Path) -> None:
        """Train the text encoder to read as shapes-clip does, or load the result of an earlier run.

        That takes minutes, and depends on the seed and on shapes-clip alone.
        """
        from safetensors.torch import load_file, save

        encoder = self.pipe.text_encoder
        weights = dict(encoder.named_parameters())
        if kept.is_file():
            return restore(weights, load_file(kept))
        imitate_reward(
            encoder, partial(encode, self.pipe), self.pipe.tokenizer, self.recipe.text_steps, self.seed
        )
        with replacing(kept, parents=True) as file:
            file.write(save({name: p.detach() for name, p in weights.items()}))

    def hidden(self, name: str) -> bool:
        return ".blocks." in name

    def blocks(self) -> list[torch.nn.Module]:
        return list(self.pipe.transformer.blocks)

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return latents, noise, sigma, weight and ids; the same of single frames, if there are any."""
        *rest, _, ids = super().inputs(step, progress)
        return *rest, ids, *self._frames(step, progress)

    def _frames(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        recipe = replace(self.recipe, batch=self.recipe.stills)
        if not recipe.batch:
            return ()
        dice, used = generator(self.seed, -1 - step), step * recipe.batch
        batch, noise, sigma, ids, _ = flow_inputs(self, self.stills, recipe, dice, used, progress)
        return batch.latents, noise, sigma, object_weight(batch.cover, recipe, progress), ids

    def denoising_loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        parts = inputs[:5], inputs[5:]  # clips, single frames
        return sum(flow_loss(self.pipe, *part) for part in parts if part)

    def evaluate(self, sheet: Path | None = None) -> dict[str, float]:
        return score(
            self.pipe, self.name, self.recipe.evaluate_prompts, sheet, tasks=VIDEO_TASKS, exact=clip_is_exact
        )


def encode(pipe: WanPipeline, ids: torch.Tensor) -> torch.Tensor:
    """Return context [B, L, 128] from ids [B, L]: as the pipeline, zero behind the end of each prompt.

    Padding is masked, so the encoder reads the first 24 ids only, whatever L is.
    """
    short, pad = ids[:, :SHORT_TEXT], pipe.tokenizer.pad_token_id
    # The pad is the end token itself; the first one belongs to the prompt.
    mask = torch.cat([torch.ones_like(short[:, :1]), short[:, :-1] != pad], 1).to(short.dtype)
    states = pipe.text_encoder(short, mask).last_hidden_state * mask[..., None]
    return torch.nn.functional.pad(states, (0, 0, 0, ids.shape[1] - short.shape[1]))


def flow_loss(
    pipe: WanPipeline,
    latents: torch.Tensor,
    noise: torch.Tensor,
    sigma: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
) -> torch.Tensor:
    """Return the weighted mean square of v - (noise - latents) at x = (1 - sigma) latents + sigma noise.

    Shapes: latents and noise [B, 16, T, 8, 8] with T = 5 for clips and 1 for single frames, sigma [B], weight
    [B, 1, T, 8, 8], ids [B, L].
    """
    found = velocity(pipe, pipe.transformer, latents, noise, sigma, encode(pipe, ids))
    return (weight * (found.float() - (noise - latents)).square()).mean()


def latent_cover(masks: np.ndarray) -> np.ndarray:
    """Return what objects cover of latent pixels [B, 1, T, 8, 8], by masks [B, 2 T - 1, 32, 32] in 0..1."""
    (count, frames), (_, height, width) = masks.shape[:2], LATENT
    cells = masks.reshape(count, frames, height, SIDE // height, width, SIDE // width).mean((3, 5))
    pairs = cells[:, 1:].reshape(count, frames // 2, 2, height, width).mean(2)
    return np.concatenate([cells[:, :1], pairs], 1)[:, None]


def clip_is_exact(movie: np.ndarray, script: Script) -> bool:
    """Return whether the detector of clips finds that a clip follows its script."""
    return verify_clip(movie, parse(script.caption)).correct
