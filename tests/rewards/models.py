"""Tiny models with random weights for the tests of rewards, saved as large ones are."""

import numpy as np
import torch

from diffusers_ext.zoo.models import build_processor, build_reward
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

PROMPTS = ["a red circle and a blue square", "two green stars", "a yellow triangle"]


def clip_folder(folder, seed=0):
    """Save an untrained CLIPModel with its processor; pictures are 64 x 64 px, features [B, 128]."""
    torch.manual_seed(seed)
    model = build_reward()
    for parameter in model.parameters():  # fresh weights are so small that all pictures look the same
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def pictures():
    """Pictures [3, 3, 64, 64] of `PROMPTS`."""
    images = np.stack([draw(parse(p), 0) for p in PROMPTS])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def slope_error(function, images, seed=0):
    """Relative difference of the gradient and of central differences, along a random direction.

    `function` maps images to scores [B]; everything is in float64.
    """
    images = images.double().requires_grad_()
    way = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(function(images).sum(), images)
    with torch.no_grad():
        step = 1e-5
        wanted = (function(images + step * way) - function(images - step * way)).sum() / (2 * step)
    return float(((gradient * way).sum() - wanted).abs() / wanted.abs())
