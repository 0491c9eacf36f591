"""Score pictures: a reward's `score(images, prompts)` is differentiable with respect to the images."""

from __future__ import annotations

from .aesthetic import Aesthetic
from .base import CallableReward, Ensemble, Reward, ensemble
from .checks import to_tensor
from .clip import CLIPScore, PickScore
from .hps import HPSv2
from .image_reward import ImageReward
from .noise_aware import NoiseAware
from .shapes import ShapesCLIP
from .vqa import VQAScore

__all__ = [
    "Aesthetic",
    "CLIPScore",
    "CallableReward",
    "Ensemble",
    "HPSv2",
    "ImageReward",
    "NoiseAware",
    "PickScore",
    "Reward",
    "ShapesCLIP",
    "VQAScore",
    "ensemble",
    "to_tensor",
]
