"""Hold the pictures of attention heads, and write them as contact sheets and as a page."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.report.page import Figure, data_url, render
from ..evaluate.score import Judged
from ..outputs.files import output_folder, write_json, write_text
from ..outputs.record import write_image
from ..sampling.clip import Clip, still
from .contact import Cell, fitted, tiles

if TYPE_CHECKING:
    from PIL.Image import Image

PAGE_SIDE = 256  # px of a picture in the page
ABOUT = (
    "Each picture is guided away from a pass in which places see only themselves in one attention head "
    "(SoftPAG), from the same noise. The change is the root mean square of the difference from the plain "
    "picture, in levels of 0 to 255."
)


@dataclass(frozen=True, eq=False)
class HeadPicture:
    """The picture of one head, `None` if it could not be made; `reason` says why.

    `change` is the root mean square of the difference from the plain picture, in levels of 0 to 255.
    `verdict` is that of shapes world, whose `correct` is `None` where it has no ground truth.
    """

    layer: str
    head: int
    image: Image | Clip | None
    change: float | None
    verdict: Judged | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class HeadSheet:
    """A picture for each head of some layers and the plain one, all from the same noise.

    `pictures` are in the order of layers and heads.
    """

    prompt: str
    seed: int
    scale: float
    strength: float
    plain: Image | Clip
    verdict: Judged
    pictures: tuple[HeadPicture, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The paths of the layers, in the order in which they run."""
        return tuple(dict.fromkeys(each.layer for each in self.pictures))

    def largest(self, count: int | None = None) -> list[HeadPicture]:
        """Return the pictures with the largest change first; those that could not be made are left out."""
        made = [each for each in self.pictures if each.change is not None]
        return sorted(made, key=lambda each: -each.change)[:count]

    def save(self, folder: str | os.PathLike[str], record: Mapping[str, Any] | None = None) -> list[Path]:
        """Write a contact sheet for each layer, `heads.html` and `heads.json` to a folder; return the paths.

        `record` holds further facts for the JSON file, such as the model. Raises `OSError` for a folder that
        cannot be written to.
        """
        out, made = output_folder(folder), []
        for layer in self.layers:
            made.append(out / f"heads-{re.sub(r'[^A-Za-z0-9_.-]', '-', layer)}.png")
            write_image(made[-1], contact_sheet(self, layer))
        made += [out / "heads.html", out / "heads.json"]
        write_text(made[-2], page(self))
        write_json(made[-1], {**(record or {}), **facts(self)})  # last, so if it exists, the others do
        return made


def contact_sheet(sheet: HeadSheet, layer: str) -> Image:
    """Draw the plain picture and those of the heads of one layer."""
    own = [each for each in sheet.pictures if each.layer == layer]
    cells = [Cell(still(sheet.plain), ("plain", *_words(sheet.verdict)), sheet.verdict.correct)]
    cells += [
        Cell(
            None if each.image is None else still(each.image),
            (f"head {each.head}", *_about(each)),
            each.verdict.correct if each.verdict else None,
        )
        for each in own
    ]
    return tiles([layer, f"{sheet.prompt}; {settings(sheet)}"], cells)


def page(sheet: HeadSheet) -> str:
    """Render the page: the plain picture, then the heads of each layer, which may be sorted by change."""
    layers = []
    for layer in sheet.layers:
        own = [each for each in sheet.pictures if each.layer == layer]
        layers.append({"name": layer, "heads": [(each, _figure(sheet, each)) for each in own]})
    return render(
        "heads.html",
        f"Attention heads: {sheet.prompt}",
        home=__package__,
        notes=[ABOUT, settings(sheet)],
        plain=_plain(sheet),
        layers=layers,
    )


def settings(sheet: HeadSheet) -> str:
    """Return the settings of a sheet in words."""
    return f"seed {sheet.seed}, scale {sheet.scale:g}, strength {sheet.strength:g}"


def _plain(sheet: HeadSheet) -> Figure:
    said = " ".join(_words(sheet.verdict)) or "the plain model"
    return _shown(sheet.plain, said, f"{sheet.prompt}, plain", sheet.verdict)


def _figure(sheet: HeadSheet, each: HeadPicture) -> Figure:
    if each.image is None:
        return Figure(text=each.reason)
    alt = f"{sheet.prompt}, head {each.head} of {each.layer}"
    return _shown(each.image, "; ".join(_about(each)), alt, each.verdict)


def _shown(image: Image | Clip, text: str, alt: str, verdict: Judged | None) -> Figure:
    buffer = BytesIO()
    picture = still(image)
    small = max(picture.size) < PAGE_SIDE
    (picture.convert("RGB") if small else fitted(picture, PAGE_SIDE)).save(buffer, "png")
    kind = {None: "", True: "good", False: "bad"}[verdict.correct if verdict else None]
    return Figure(text, data_url(buffer.getvalue()), alt, kind, "small" if small else "")


def _about(each: HeadPicture) -> Sequence[str]:
    if each.change is None:
        return (each.reason,)
    return f"change {each.change:.1f}", *_words(each.verdict)


def _words(verdict: Any) -> tuple[str, ...]:
    if verdict is None or verdict.correct is None:
        return ()
    return ("right",) if verdict.correct else (f"wrong: {verdict.reason}",)


def facts(sheet: HeadSheet) -> Mapping[str, Any]:
    """Return a sheet without its pictures, as JSON data."""

    def verdict(judged: Judged | None) -> dict[str, Any] | None:
        return None if judged is None else {"correct": judged.correct, "reason": judged.reason}

    return {
        "prompt": sheet.prompt,
        "seed": sheet.seed,
        "scale": sheet.scale,
        "strength": sheet.strength,
        "plain": verdict(sheet.verdict),
        "heads": [
            {
                "layer": each.layer,
                "head": each.head,
                "change": None if each.change is None else round(each.change, 3),
                "verdict": verdict(each.verdict),
                **({"failed": each.reason} if each.reason else {}),
            }
            for each in sheet.pictures
        ],
    }
