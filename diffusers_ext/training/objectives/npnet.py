"""Train an NPNet: predict better noise from noise and a prompt (Zhou et al., arXiv 2411.09502, equation 6).

Each pair is learned with the text of its own prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ...sampling.npnet.network import NPNetModel
from ..checkpoint import generator
from ..data.noise_pairs import NoisePairs
from ..recipes import NPNetConfig

Encode = Callable[[Sequence[str]], torch.Tensor]  # prompts -> embeddings [B, tokens, width]
MEASURED = 256  # pairs of an evaluation at most


class NPNetObjective:
    """Lower the mean squared distance between a network's noise and that of the pairs.

    `encode` gives the embeddings of prompts as the pipeline of the pairs has them.
    """

    def __init__(
        self, model: NPNetModel, pairs: NoisePairs, encode: Encode, recipe: NPNetConfig, *, seed: int = 0
    ):
        self.pipe, self.pairs, self.encode, self.recipe, self.seed = model, pairs, encode, recipe, seed

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.pipe.named_parameters())

    def hidden(self, name: str) -> bool:
        return False

    def prepare(self, device: torch.device) -> None:
        self.pipe.to(device).train()

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return noise and better noise [B, C, h, w], and embeddings [B, tokens, width]."""
        batch = self.pairs.draw(self.recipe.batch, generator(self.seed, step))
        return batch.noise, batch.golden, self.encode(batch.prompts)

    def loss(self, noise: torch.Tensor, golden: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        with torch.autocast(noise.device.type, enabled=False):  # differences are a hundredth of the noise
            return (self.pipe(noise, text.float()) - golden).square().mean()

    def evaluate(self, sheet: Path | None = None) -> Mapping[str, float]:
        """Return the share of the difference of held-back pairs that the network explains; 0 is the identity.

        `unpaired` is the same with the text of other prompts, which shows what the text adds.
        """
        held = self.pairs.read(self.pairs.held_back[:MEASURED])
        device = next(self.pipe.parameters()).device
        noise, golden, text = (x.to(device) for x in (held.noise, held.golden, self.encode(held.prompts)))
        identity = (golden - noise).square().mean()
        figures = {}
        for name, own in (("explained", text), ("unpaired", text.roll(1, 0))):
            figures[name] = 1 - float(self.loss(noise, golden, own) / identity)
        return figures
