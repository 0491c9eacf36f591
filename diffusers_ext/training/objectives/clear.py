"""Distil a sparse attention method: with it, a copy of a model learns to predict what the model predicts.

Paper: Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up" (arXiv
2412.16112), and its published training code. The loss has three terms: flow matching, 0.5 * mean square
between the velocities of student and teacher, and 0.5 * mean square between their attention outputs. These
outputs are taken before the projection out and averaged over layers. Both models see the same noisy latents.
Only the attention projections of the image stream learn.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...families import family_of
from ...processors.clear import CLEAR
from ...processors.record import RecordAttention
from ...processors.sparse.pooled import uniform
from ...session.session import apply
from ..checkpoint import generator
from ..data.latents import LatentStream
from ..recipes import FlowRecipe
from .base import DiffusionObjective, flow_inputs
from .flow import encode, velocity
from .sd3 import SD3Objective

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    from ...core import Site
    from ...processors.sparse.method import SparseMethod

# Layers of an attention module that learn; those of the text stream stay as they are.
LEARN = "to_q", "to_k", "to_v", "to_out.0"
PROBE = -1  # number of the step whose noise is never trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig(FlowRecipe):
    """This is the recipe of a student."""

    samples: int = 32_000
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 640
    decay: float = 0.5
    ema: float = 0.99
    first: int = 8_000
    foreground: float = 0.0
    long_text: float = 0.03
    long_text_late: float = 0.03
    evaluate_every: int = 8_000
    velocity: float = 0.5  # weight of the distance to the teacher's velocity
    attention: float = 0.5  # weight of the distance to the teacher's attention outputs
    attention_every: int = 1  # outputs of every n-th layer are compared; the published code takes each fourth


class DistilObjective(DiffusionObjective):
    """Train a copy of the pipeline `teacher` with `method` on its transformer.

    Latents are kept in the folder `cache`. `close()` takes the method off again. Before that the transformer
    cannot be saved as a stock one.
    """

    name = "clear"
    trained = ("transformer",)
    lengths = SD3Objective.lengths
    recipe: DistilConfig

    def __init__(
        self,
        teacher: StableDiffusion3Pipeline,
        method: SparseMethod,
        cache: Path,
        recipe: DistilConfig | None = None,
        *,
        seed: int = 0,
        compile: bool = False,
    ):
        from torch import nn

        recipe = recipe or DistilConfig()
        student = copy.deepcopy(teacher.transformer)
        pipe = type(teacher)(**{**teacher.components, "transformer": student})
        super().__init__(pipe, recipe, seed=seed, compile=compile)
        self.method, self.teacher = method, teacher.transformer
        for part in teacher.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        student.requires_grad_(False)
        self.sites = method.select(family_of(student).sites(student, ""))
        for p in learning(student, self.sites).values():
            p.requires_grad_(True)
        self.records = RecordAttention(recipe.attention_every), RecordAttention(recipe.attention_every)
        taught = apply(student, method, self.records[0])
        self.sessions = taught, apply(self.teacher, self.records[1])
        pools = isinstance(method, CLEAR) and method.downsample
        self.pooled = taught.cores(method) if pools else {}
        for core in self.pooled.values():
            start = core.spatial_weight
            core.spatial_weight = nn.Parameter(uniform(method.downsample) if start is None else start.float())
        self.stream = LatentStream(pipe.vae, pipe.tokenizer, cache, seed, recipe.first, recipe.reuse)

    def close(self) -> None:
        """Take the method off the student, and the recording of attention off both models."""
        for session in self.sessions:
            session.close()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the projections of the image stream, and the weights of pooled tokens, if any."""
        pooled = {f"far.{site.name}": core.spatial_weight for site, core in self.pooled.items()}
        names = learning(self.pipe.transformer, self.sites)
        return {f"transformer.{name}": p for name, p in names.items()} | pooled

    def hidden(self, name: str) -> bool:
        return name.endswith(".weight")

    def blocks(self) -> list[torch.nn.Module]:
        return [*self.pipe.transformer.transformer_blocks, *self.teacher.transformer_blocks]

    def prepare(self, device: torch.device) -> None:
        self.teacher.to(device)
        for core in self.pooled.values():
            core.spatial_weight.data = core.spatial_weight.data.to(device)
        self.probe = [x.to(device) for x in self._draw(PROBE, 0, 0.0)]
        super().prepare(device)

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Draw latents, noise, sigma, ids [B, 24] and the same ids at the length of this step."""
        return self._draw(step, step * self.recipe.batch, progress)

    def _draw(self, step: int, used: int, progress: float) -> tuple[torch.Tensor, ...]:
        dice = generator(self.seed, step)
        batch, *drawn = flow_inputs(self, self.stream, self.recipe, dice, used, progress)
        return batch.latents, *drawn

    def denoising_loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        terms = self.terms(*inputs)
        recipe = self.recipe
        return terms["flow"] + recipe.velocity * terms["velocity"] + recipe.attention * terms["attention"]

    def terms(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        ids: torch.Tensor,
        t5_ids: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return mean squares: `flow` (to noise - latents), `velocity` and `attention` (to the teacher)."""

        def predict(transformer: SD3Transformer2DModel) -> torch.Tensor:
            return velocity(self.pipe, transformer, latents, noise, sigma, context, pooled).float()

        with torch.no_grad():
            context, pooled = encode(self.pipe, ids, t5_ids)
            wanted = predict(self.teacher)
        found = predict(self.pipe.transformer)
        mine, its = (record.kept for record in self.records)
        apart = [(mine[name].float() - its[name].float()).square().mean() for name in mine]
        return {
            "flow": (found - (noise - latents)).square().mean(),
            "velocity": (found - wanted).square().mean(),
            "attention": torch.stack(apart).mean(),
        }

    def evaluate(self, sheet: Path | None = None) -> dict[str, float]:
        """Compute the three terms on one batch of known pictures, whose noise is never trained on."""
        with self.attention():
            return {name: value.item() for name, value in self.terms(*self.probe).items()}


def learning(transformer: torch.nn.Module, sites: list[Site]) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that learn: the projections of queries, keys, values and outputs at `sites`.

    They are keyed by their names in the transformer.
    """
    names = [f"{site.name}.{leaf}" for site in sites for leaf in LEARN]
    modules = {name: transformer.get_submodule(name) for name in names}
    return {f"{name}.{k}": p for name, module in modules.items() for k, p in module.named_parameters()}
