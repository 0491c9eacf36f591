"""The pictures of an evaluation on disk, so that wins, losses and failures can be looked at afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..outputs.files import slug, subfolder
from ..outputs.record import write_image
from .generate import Item
from .video import Clip, still

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "pictures"


class Pictures:
    """A PNG per variant, prompt and seed under `FOLDER`; each is written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder, folder / FOLDER

    def path(self, variant: str, item: Item) -> Path:
        """Where the picture of `variant` (as the store names it) lies, whether or not it has been made."""
        name = hashlib.sha256(variant.encode()).hexdigest()[:10]
        return self.folder / name / f"{slug(item.prompt, 100)}-{item.seed}.png"

    def has(self, variant: str, item: Item) -> bool:
        """Whether the picture has been made."""
        return self.path(variant, item).is_file()

    def add(self, variant: str, item: Item, image: Image | Clip) -> None:
        """Keeps one picture, or the frames of a clip on a sheet; it is on the disk when this returns."""
        path = self.path(variant, item)
        subfolder(self.home, FOLDER, path.parent.name)
        write_image(path, still(image), {"prompt": item.prompt, "seed": item.seed})
