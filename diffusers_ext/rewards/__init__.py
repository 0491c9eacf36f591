"""Score pictures: a reward's `score(images, prompts)` is differentiable with respect to the images."""

from __future__ import annotations

from .base import CallableReward, Ensemble, Reward, ensemble
from .checks import to_tensor
from .shapes import ShapesCLIP

__all__ = ["CallableReward", "Ensemble", "Reward", "ShapesCLIP", "ensemble", "to_tensor"]
