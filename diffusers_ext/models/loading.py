"""`load`: one name for a model of the zoo, a local folder or a Hub id."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def load(name_or_path: str | os.PathLike[str], **kwargs: Any) -> DiffusionPipeline:
    """Load a stock diffusers pipeline, ready to be called with a prompt.

    `name_or_path` is a name of the zoo ("shapes-sd3"), a folder written by `save_pretrained`, or a Hub id
    ("black-forest-labs/FLUX.1-dev"), tried in this order. `kwargs` go to `DiffusionPipeline.from_pretrained`.
    Models of the zoo, and folders with a card from training, are checked against their sha256. Those of the
    zoo come in float32 unless `dtype` says otherwise. Called without arguments, those and folders with a card
    use the size, steps and scales they were trained for (`zoo.calling`). Code inside a repository is never
    run unless you pass `trust_remote_code=True` yourself.

    Raises `ValueError` for an unknown name and for other weights than those of the card. Raises `OSError`,
    naming the file, for a folder or Hub id that cannot be read. Weights that lack a part of the model raise
    it as well.
    """
    from .checkpoint import Checkpoint

    return Checkpoint.resolve(name_or_path).read(**kwargs)
