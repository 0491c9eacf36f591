"""Train shapes-sd-turbo: one step of a student replaces fifteen guided steps of a teacher.

This is distribution matching distillation (Yin et al., arXiv 2311.18828). Regression on the ends of the
teacher's trajectories fixes the result for each noise. Regression alone would give the mean of all results
that a noise might have. So a second term pulls the pictures to results that the teacher finds likely. It is
the difference of two denoisers: the teacher, and a critic that learns the student's own pictures. The teacher
predicts with guidance, so the student needs none.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...zoo.catalogue import MODELS
from ..checkpoint import generator
from ..data.teacher_pairs import TeacherPairs, captions, token_ids
from ..recipes import TurboConfig
from .base import DiffusionObjective
from .sd import snr_weight, spread_timesteps, unet_blocks

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

FRESH = 2**30  # first sample of the stream whose captions come without a pair


class TurboObjective(DiffusionObjective):
    """Train a one-step copy of the pipeline `teacher`; pairs of it are kept in the folder `cache`.

    `call` holds the arguments with which the teacher makes its pictures. Student and critic begin as the
    teacher and learn in the same step. Each has its own loss, and neither loss moves the other's weights.
    """

    name = "shapes-sd-turbo"
    trained = ("unet",)
    recipe: TurboConfig

    def __init__(
        self,
        teacher: StableDiffusionPipeline,
        cache: Path,
        recipe: TurboConfig | None = None,
        *,
        call: Mapping[str, Any] = MODELS["shapes-sd"].call,
        seed: int = 0,
        compile: bool = True,
    ):
        recipe, call = recipe or TurboConfig(), dict(call)
        parts = {**teacher.components, "unet": copy.deepcopy(teacher.unet)}
        pipe = type(teacher)(**parts, requires_safety_checker=False)
        super().__init__(pipe, recipe, seed=seed, compile=compile)
        teacher.set_progress_bar_config(disable=True)
        for frozen in (teacher.unet, teacher.text_encoder):
            frozen.requires_grad_(False).eval()
        self.teacher, self.guidance = teacher, call["guidance_scale"]
        self.critic = copy.deepcopy(pipe.unet)
        self.pairs = TeacherPairs(teacher, call, cache, seed, recipe.first, recipe.reuse)
        self.empty = token_ids(pipe.tokenizer, [""])

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        critic = {f"critic.{name}": p for name, p in self.critic.named_parameters()}
        return super().parameters() | critic

    def blocks(self) -> list[torch.nn.Module]:
        networks = self.pipe.unet, self.critic, self.teacher.unet
        return [block for network in networks for block in unet_blocks(network)]

    def prepare(self, device: torch.device) -> None:
        self.teacher.to(device)
        self.critic.to(device).train()
        self.empty = self.empty.to(device)
        super().prepare(device)

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return noise, ids, the teacher's latents for the first rows, timesteps and noise to compare at."""
        recipe, dice = self.recipe, generator(self.seed, step)
        paired = round(recipe.paired * recipe.batch)
        pairs = self.pairs.batch(step * paired, paired, dice)
        noise, ids = pairs.noise, pairs.ids
        if alone := recipe.batch - paired:
            texts = captions(self.seed, FRESH + step * alone, alone)
            noise = torch.cat([noise, torch.randn(alone, *noise.shape[1:], generator=dice)])
            ids = torch.cat([ids, token_ids(self.pipe.tokenizer, texts)])
        steps = self.pipe.scheduler.config.num_train_timesteps
        margin = round(recipe.margin * steps)
        t = margin + spread_timesteps(recipe.batch, steps - 2 * margin, dice)
        return noise, ids, pairs.latents, t, torch.randn(noise.shape, generator=dice)

    def denoising_loss(
        self,
        noise: torch.Tensor,
        ids: torch.Tensor,
        targets: torch.Tensor,
        t: torch.Tensor,
        fresh: torch.Tensor,
    ) -> torch.Tensor:
        """Return regression, matching and the critic's own loss.

        Shapes: noise and fresh [B, 4, 16, 16], ids [B, 24], t [B] integer, targets [P, 4, 16, 16] for the
        first P rows.
        """
        scheduler, recipe = self.pipe.scheduler, self.recipe
        with torch.no_grad():
            text = self.pipe.text_encoder(ids)[0]
            empty = self.pipe.text_encoder(self.empty)[0].expand_as(text)
        start = torch.full_like(t, scheduler.config.num_train_timesteps - 1)
        made = clean(scheduler, noise, start, self.pipe.unet(noise, start, text).sample)
        fixed = made.detach()
        noisy = scheduler.add_noise(fixed, fresh, t)
        with torch.no_grad():
            both = self.teacher.unet(torch.cat([noisy] * 2), t.repeat(2), torch.cat([empty, text])).sample
            without, given = both.float().chunk(2)
            real = clean(scheduler, noisy, t, without + self.guidance * (given - without))
        v = self.critic(noisy, t, text).sample.float()
        weight = snr_weight(scheduler, t, recipe.snr)
        critic = (weight * (v - scheduler.get_velocity(fixed, fresh, t)).square()).mean()
        regression = (made[: len(targets)] - targets).square().mean()
        matching = matching_loss(made, real, clean(scheduler, noisy, t, v.detach()))
        return recipe.regression * regression + recipe.matching * matching + critic


def matching_loss(made: torch.Tensor, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return a loss whose gradient in `made` is the mean of (fake - real) / |made - real|.

    It moves pictures [B, 4, 16, 16] away from the critic's prediction and towards the teacher's (arXiv
    2311.18828, equations 7 and 8).
    """
    scale = (made.detach() - real).abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-4)
    target = made.detach() - (fake - real) / scale
    return 0.5 * (made - target).square().mean()


def clean(scheduler: DDIMScheduler, noisy: torch.Tensor, t: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the latents that a prediction v [B, 4, 16, 16] at timesteps [B] stands for, in fp32."""
    alpha = scheduler.alphas_cumprod.to(t.device)[t][:, None, None, None]
    return alpha.sqrt() * noisy - (1 - alpha).sqrt() * v.float()
