"""An NPNet for noise of 8 x 8 latent pixels, with weights that do something."""

from typing import Any

import torch

from diffusers_ext.sampling.npnet.network import NPNetModel
from tests.tiny_models.parts import noise

CONFIG = dict(
    sample_size=8,
    text_tokens=5,
    text_width=6,
    svd_hidden=8,
    svd_last_hidden=12,
    svd_heads=4,
    swin_size=16,
    swin_patch=2,
    swin_window=4,
    swin_width=8,
    swin_depths=(2, 1),
    swin_heads=(2, 4),
)


def network(seed: int = 0, **config: Any) -> NPNetModel:
    """An NPNet whose three branches all matter."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = NPNetModel(**CONFIG | config)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.alpha.fill_(0.5)
        model.beta.fill_(0.7)
    return model.eval().requires_grad_(False)


def inputs(batch: int = 3, seed: int = 0, size: tuple[int, ...] = (4, 8, 8)) -> tuple[torch.Tensor, ...]:
    """Noise `[B, 4, 8, 8]` and embeddings `[B, 5, 6]`."""
    draw = noise(seed)
    return draw(batch, *size), draw(batch, CONFIG["text_tokens"], CONFIG["text_width"])
