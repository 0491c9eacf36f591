"""Keep the pictures of an evaluation on disk, so that wins, losses and failures can be looked at."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..outputs.files import slug, subfolder
from ..outputs.record import write_image
from ..sampling.clip import Clip, still
from ..sampling.items import Item

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "pictures"


class Pictures:
    """This folder holds a PNG per variant, prompt and seed under `FOLDER`."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder, folder / FOLDER

    def path(self, variant: str, item: Item) -> Path:
        """Return the file of a picture, whether or not it exists; `variant` is the name in the store."""
        name = hashlib.sha256(variant.encode()).hexdigest()[:10]
        return self.folder / name / f"{slug(item.prompt, 100)}-{item.seed}.png"

    def has(self, variant: str, item: Item) -> bool:
        """Check whether the picture exists."""
        return self.path(variant, item).is_file()

    def add(self, variant: str, item: Item, image: Image | Clip) -> None:
        """Write one picture, or the frames of a clip on a sheet; it is on the disk when this returns."""
        path = self.path(variant, item)
        subfolder(self.home, FOLDER, path.parent.name)
        write_image(path, still(image), {"prompt": item.prompt, "seed": item.seed})
