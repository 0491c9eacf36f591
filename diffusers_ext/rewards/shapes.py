"""Score how well pictures fit their captions, by the learned reward of shapes world, a CLIPModel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..zoo.cards import verify_weights
from ..zoo.catalogue import path
from .clip import CLIPReward

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel


class ShapesCLIP(CLIPReward):
    """Score pictures by the cosine of picture and caption, differentiable with respect to the picture.

    `folder` holds a CLIPModel with its processor. Without it the shipped weights are loaded, after a check of
    their sha256. The weights are frozen and in float32.
    """

    name = "shapes-clip"

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        *,
        dtype: torch.dtype | None = None,
        checkpoint: bool = False,
    ):
        self.shipped = folder is None
        home = path(self.name) if folder is None else Path(folder)
        if not (home / "config.json").is_file():
            raise FileNotFoundError(
                f"a reward folder needs a config.json and {str(home)!r} has none; "
                f"run 'diffusers-ext train {self.name}' and pass the folder it writes"
            )
        super().__init__(home, device=device, dtype=dtype, checkpoint=checkpoint)

    def _load(self) -> CLIPModel:
        if self.shipped:
            verify_weights(self.place)
        return super()._load()
