"""Teach a reward to score pictures that are estimated at a step of sampling as it scores them finished."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from ...rewards.clip import CLIPReward, preprocess, read_prompts
from ..checkpoint import generator
from ..data.estimates import Estimates
from ..recipes import NoiseAwareConfig
from .base import plain_attention


class NoiseAwareObjective:
    """Train the last attention of the picture half of a reward on the estimates of one step.

    The target is the score that the reward itself gives to the finished picture, as in TTSnap (2511.22242).
    There the loss is the squared distance. Here it is that of differences between pictures of one prompt,
    since a search compares no others. Steps are learned one after the other, from the least noise to the
    most, and each begins with the weights of the one before, `start`.
    """

    def __init__(
        self,
        base: CLIPReward,
        data: Estimates,
        step: int,
        recipe: NoiseAwareConfig | None = None,
        *,
        start: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ):
        self.recipe, self.seed, self.data = recipe or NoiseAwareConfig(), seed, data
        self.place = data.steps.index(step)
        self.base = base
        self.pipe = self.model = copy.deepcopy(base.model)
        if start is not None:
            self.model.load_state_dict(dict(start), strict=False)
        self.model.requires_grad_(False)
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)
        self.read = read_prompts(self.model, base.processor.tokenizer, data.texts).float()
        self.attention = contextlib.nullcontext

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        count = len(self.model.vision_model.encoder.layers)
        blocks = (f"vision_model.encoder.layers.{i}." for i in range(count - self.recipe.blocks, count))
        learned = tuple(block + part for block in blocks for part in ("layer_norm1.", "self_attn."))
        learned += "vision_model.post_layernorm.", "visual_projection."
        return {name: p for name, p in self.model.named_parameters() if name.startswith(learned)}

    def hidden(self, name: str) -> bool:
        return ".layers." in name

    def prepare(self, device: torch.device) -> None:
        self.model.to(device).train()
        self.read = self.read.to(device)
        if device.type == "cpu":
            self.attention = plain_attention()

    def inputs(self, step: int, progress: float) -> tuple[Tensor, ...]:
        """Return estimated pictures uint8 [B, 3, H, W], numbers of prompts [B], scores of the ends [B]."""
        rows = self.data.draw(self.recipe.batch // self.data.images, generator(self.seed, step))
        return rows["pictures"][:, self.place], rows["prompt"].long(), rows["score"]

    def loss(self, pictures: Tensor, prompts: Tensor, scores: Tensor) -> Tensor:
        pixels = preprocess(pictures.float() / 255, self.base.processor.image_processor)
        with self.attention():
            seen = self.model.get_image_features(pixels).pooler_output.float()
        given = cosine_similarity(seen, self.read[prompts])
        return mse_loss(*(apart(values.view(-1, self.data.images)) for values in (given, scores)))

    def evaluate(self, sheet: Path | None = None) -> dict[str, float]:
        """Nothing is measured on the way; `bench.studies.search` measures ranks on tuning prompts."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained tensors by their names in the model."""
        return {name: p.detach().cpu().clone() for name, p in self.parameters().items()}


def apart(scores: Tensor) -> Tensor:
    """Return by how much scores `[prompts, pictures]` differ from the mean of their prompt."""
    return scores - scores.mean(1, keepdim=True)
