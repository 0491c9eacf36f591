"""Save each picture of a comparison at once, so that the next run makes only what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ..outputs.files import slug, subfolder, write_json
from ..outputs.record import write_image
from ..sampling import identity
from ..sampling.items import Item
from .cells import Cell, Variant
from .pictures import FOLDER
from .score import plain_data
from .store import judged

# The first two are raised for a damaged PNG, the others for a verdict that is none.
DAMAGED = OSError, SyntaxError, KeyError, TypeError, ValueError, AttributeError


class PictureFiles:
    """Store a PNG and a JSON file for each picture, under `FOLDER`/variant.

    `common` is what all pictures share, as `identity.shared` returns it. Pictures of other settings have
    other names and stay.
    """

    def __init__(self, folder: Path, common: Mapping[str, Any]) -> None:
        self.home, self.common = folder, common

    def facts(self) -> dict[str, Any]:
        """Return what identifies the model and the machine in a results file."""
        return {key: self.common[key] for key in ("weights", "configs", "dtype", "device")}

    def record(self, variant: Variant, item: Item) -> dict[str, Any]:
        """Return all that shapes the picture of `item` under `variant`."""
        return identity.of(item, {**self.common, "methods": variant.settings()})

    def path(self, variant: Variant, item: Item) -> Path:
        """Return the file of that picture, whether or not it has been made."""
        name = identity.name(self.record(variant, item))
        return self.home / FOLDER / slug(variant.label) / f"{name}.png"

    def find(self, variant: Variant, items: Sequence[Item]) -> tuple[dict[Item, Cell], dict[str, Any] | None]:
        """Read finished pictures with their verdicts, and the last report of the session that made them."""
        found, report = {}, None
        for item in items:
            path = self.path(variant, item)
            beside = identity.finished(path, self.record(variant, item))
            if beside is None:
                continue
            with suppress(*DAMAGED), Image.open(path) as image:
                found[item] = Cell(variant.label, image.convert("RGB"), judged(beside["judged"]))
                report = beside.get("report") or report
        return found, report

    def add(self, variant: Variant, cell: Cell, report: Mapping[str, Any] | None) -> None:
        """Store one picture. It is on the disk when this returns."""
        item = Item(cell.judged.prompt, cell.judged.seed)
        made, path = self.record(variant, item), self.path(variant, item)
        subfolder(self.home, FOLDER, path.parent.name)
        write_image(path, cell.image, made)
        write_json(path.with_suffix(".json"), made | {"judged": plain_data(cell.judged), "report": report})
