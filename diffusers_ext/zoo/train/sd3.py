"""Learns shapes-sd3: transformer and text encoders together, on latents of the shapes world."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..models import build_sd3
from .config import SD3Config
from .evaluate import score
from .fit import restore
from .flow import TRAINED, flow_loss, lengthen, trained_parameters
from .latents import LatentStream, drop_captions, object_weight
from .loop import generator

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, StableDiffusion3Pipeline

SHORT_TEXT, LONG_TEXT = 24, 256  # T5 tokens: our call default and the default of the stock pipeline


class SD3Objective:
    """Flow matching for a StableDiffusion3Pipeline on the stream `seed`, encoded into the folder `cache`.

    The weights come from the pipeline folder `start`, or at random when that is None.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        cache: Path,
        recipe: SD3Config | None = None,
        *,
        start: Path | None = None,
        seed: int = 0,
        compile: bool = True,
    ):
        import torch

        self.recipe, self.seed, self.compile = recipe or SD3Config(), seed, compile
        torch.manual_seed(seed)
        self.pipe = build_sd3(vae)
        self.pipe.set_progress_bar_config(disable=True)
        if start is not None:
            adopt(self.pipe, start)
        self.stream = LatentStream(
            vae, self.pipe.tokenizer, cache, seed, self.recipe.first, self.recipe.reuse
        )
        self.attention = contextlib.nullcontext

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return trained_parameters(self.pipe)

    def hidden(self, name: str) -> bool:
        return "transformer_blocks" in name

    def prepare(self, device: torch.device) -> None:
        import torch

        self.pipe.to(device)
        for part in TRAINED:
            getattr(self.pipe, part).train()
        if self.compile:
            # Two text lengths, training and evaluation, and the last block differs.
            torch._dynamo.config.recompile_limit = 32
            for block in self.pipe.transformer.transformer_blocks:
                block.compile(dynamic=False)
        if device.type == "cpu":
            self.attention = plain_attention()

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

    def loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        with self.attention():
            return flow_loss(self.pipe, *inputs)

    def evaluate(self) -> dict[str, float]:
        return score(self.pipe, "shapes-sd3", self.recipe.evaluate_prompts)


def plain_attention() -> partial:
    """A context in which attention is two matrix products: on a CPU the backward pass of the fused kernel
    takes two fifths of a step."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    return partial(sdpa_kernel, SDPBackend.MATH)


def adopt(pipe: StableDiffusion3Pipeline, folder: Path) -> None:
    """Take over the trained parts of a saved pipeline."""
    from diffusers import StableDiffusion3Pipeline

    saved = StableDiffusion3Pipeline.from_pretrained(folder)
    restore(trained_parameters(pipe), {k: p.detach().float() for k, p in trained_parameters(saved).items()})
