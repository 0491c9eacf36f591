"""Score pictures: a reward's `score(images, prompts)` is differentiable with respect to the images."""

from __future__ import annotations

from .shapes import ShapesCLIP

__all__ = ["ShapesCLIP"]
