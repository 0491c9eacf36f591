"""Write maps of words: contact sheets, a page in which they are chosen, and the numbers."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..evaluate.report.page import data_url, render
from ..outputs.files import output_folder, write_json, write_text
from ..outputs.record import write_image
from ..sampling.clip import Clip, still
from .contact import Cell, colours, fitted, overlay, sheet, tiles

if TYPE_CHECKING:
    from torch import Tensor

    from .map_data import MapData

SHARE = "The share of its attention that a place pays to the word, from 0 to the largest value of the map"
SCALED = f"{SHARE}, which is below it."
COLUMNS = 8  # steps in a sheet
HEADS = 64  # maps of single heads in a sheet
PAGE_BYTES = 8 << 20  # of maps in a page; above it the page has means only
PAGE_SIDE = 512  # px of the picture in the page


def write(found: MapData, folder: str | os.PathLike[str], record: Mapping[str, Any]) -> list[Path]:
    """Write all files and return their paths; `maps.json` is the last, so if it exists, the others do."""
    out = output_folder(folder)
    sheets = {"maps.png": words_sheet(found)}
    if len(found.steps) > 1:
        sheets["maps-steps.png"] = steps_sheet(found)
    if len(found.layers) > 1:
        sheets["maps-layers.png"] = layers_sheet(found)
    if any(each.shape[2] > 1 for each in found.data.values()):
        sheets["maps-heads.png"] = heads_sheet(found)
    for name, image in sheets.items():
        write_image(out / name, image)
    write_text(out / "maps.html", page(found))
    write_json(out / "maps.json", {**record, **facts(found)})
    return [*(out / name for name in sheets), out / "maps.html", out / "maps.json"]


def words_sheet(found: MapData) -> Image.Image:
    """Draw the picture, then the map of each word over it, the mean over steps and layers."""
    means = f"mean over {len(found.steps)} steps and {len(found.layers)} layers"
    cells = [Cell(still(found.image), ("the picture",))]
    cells += [_cell(found, found.map(w.label), w.label) for w in found.words]
    return tiles([found.prompt, f"seed {found.seed}; {means}"], cells, SCALED)


def steps_sheet(found: MapData) -> Image.Image:
    """Draw the maps of each word at several steps, evenly spread, each the mean over layers."""
    last = len(found.steps) - 1
    count = min(COLUMNS, len(found.steps))
    some = sorted({found.steps[round(i * last / max(count - 1, 1))] for i in range(count)})
    rows = [(w.label, [_cell(found, found.map(w.label, step=s)) for s in some]) for w in found.words]
    heads = [f"step {s} of {found.step_count}" for s in some]
    title = [found.prompt, f"seed {found.seed}; mean over {len(found.layers)} layers; steps count from 0"]
    return sheet(title, rows, heads, SCALED)


def layers_sheet(found: MapData) -> Image.Image:
    """Draw the maps of each word in each layer, the mean over steps; a row is a layer."""
    rows = [(p, [_cell(found, found.map(w.label, layer=p)) for w in found.words]) for p in found.layers]
    title = [found.prompt, f"seed {found.seed}; mean over {len(found.steps)} steps"]
    return sheet(title, rows, [w.label for w in found.words], SCALED)


def heads_sheet(found: MapData) -> Image.Image:
    """Draw the maps of each word in single heads, the mean over steps; a row is a head.

    Heads whose maps differ most from place to place come first, and at most `HEADS` maps are drawn.
    """
    heads = [(p, h) for p, each in found.data.items() for h in range(each.shape[2])]
    maps = {
        (path, head): [found.map(w.label, layer=path, head=head) for w in found.words] for path, head in heads
    }
    heads.sort(key=lambda each: -sum(float(m.std(correction=0)) for m in maps[each]))
    shown = heads[: max(HEADS // len(found.words), 1)]
    rows = [(f"{path}, head {head}", [_cell(found, m) for m in maps[path, head]]) for path, head in shown]
    title = [
        found.prompt,
        f"seed {found.seed}; mean over {len(found.steps)} steps; {len(shown)} of {len(heads)} heads, those "
        "whose maps differ most from place to place first",
    ]
    return sheet(title, rows, [w.label for w in found.words], SCALED)


def page(found: MapData) -> str:
    """Render the page, with selects for word, step, layer and head."""
    entries, complete = _entries(found)
    ramp = (colours(np.linspace(0, 1, 256, dtype=np.float32))).astype(np.uint8)
    data = {
        "words": [w.label for w in found.words],
        "steps": list(found.steps),
        "layers": list(found.layers),
        "heads": {p: each.shape[2] for p, each in found.data.items()},
        "pictures": [_png(frame) for frame in frames(found)],
        "ramp": base64.b64encode(ramp.tobytes()).decode(),
        "maps": entries,
    }
    notes = [f"{SHARE}, which is at the end of the bar of colours."]
    if not complete:
        notes.append(
            "This page has means only, since all maps would make it larger than "
            f"{PAGE_BYTES >> 20} MiB; TokenMaps.map(word, step=..., layer=..., head=...) has the others."
        )
    return render(
        "maps.html",
        f"Where the words are: {found.prompt}",
        home=__package__,
        notes=[f"seed {found.seed}, steps {len(found.steps)} of {found.step_count}.", *notes],
        data=data,
        fallback=_png(words_sheet(found)),
        clip=found.grid[0] > 1,
    )


def facts(found: MapData) -> dict[str, Any]:
    """Return what maps were read, with the largest and the mean value of each word, as JSON data."""

    def numbers(label: str) -> dict[str, Any]:
        mean = found.map(label)
        t, y, x = np.unravel_index(int(mean.argmax()), tuple(mean.shape))
        return {
            "largest": float(mean.max()),
            "mean": float(mean.mean()),
            "at": {"frame": int(t), "row": int(y), "column": int(x)},
        }

    return {
        "prompt": found.prompt,
        "seed": found.seed,
        "steps": list(found.steps),
        "step_count": found.step_count,
        "layers": {
            path: {"grid": list(each.shape[-3:]), "heads": each.shape[2]} for path, each in found.data.items()
        },
        "grid": list(found.grid),
        "words": [
            {"word": w.label, "characters": list(w.place), "text_keys": list(w.columns), **numbers(w.label)}
            for w in found.words
        ],
    }


def _cell(found: MapData, values: Tensor, label: str = "") -> Cell:
    """Return the map `[t, h, w]` over the picture; a clip has a frame for each frame of the map."""
    top = f"{float(values.max()):.3g}"
    return Cell(covered(found, values), (label, top) if label else (top,))


def covered(found: MapData, values: Tensor) -> Image.Image:
    """Cover the picture by the map `[t, h, w]`; for a clip, return the sheet of its covered frames."""
    shown = [overlay(frame, each.numpy()) for frame, each in zip(frames(found), values, strict=True)]
    return shown[0] if len(shown) == 1 else Clip(np.stack([np.asarray(each) for each in shown])).sheet()


def frames(found: MapData) -> list[Image.Image]:
    """Return the picture, or for each frame of the maps the first frame of the clip that it stands for."""
    if not isinstance(found.image, Clip):
        return [found.image]
    clip, count = found.image.frames, found.grid[0]
    pace = (len(clip) - 1) / max(count - 1, 1)
    places = [0] + [min(round((i - 1) * pace) + 1, len(clip) - 1) for i in range(1, count)]
    return [Image.fromarray(clip[place]) for place in places]


def _entries(found: MapData) -> tuple[dict[str, list[Any]], bool]:
    """Return maps by "word,step,layer,head", and whether all that exist are there; -1 stands for a mean.

    Each is `[largest, frames, rows, columns, base64]` of bytes scaled by the largest value. Means come first,
    and others are left out that would make the page too large.
    """
    made: dict[str, list[Any]] = {}
    left = PAGE_BYTES
    for keys in _levels(found):
        left -= len(found.words) * sum(prod(found.grid if p < 0 else _grid(found, p)) for _, p, _ in keys)
        if made and left < 0:
            return made, False
        for i, word in enumerate(found.words):
            for s, p, h in keys:
                step, layer, head = (
                    None if n < 0 else names[n]
                    for n, names in ((s, found.steps), (p, found.layers), (h, range(h + 1)))
                )
                values = found.map(word.label, step=step, layer=layer, head=head)
                made[f"{i},{s},{p},{h}"] = _packed(values)
    return made, True


def _levels(found: MapData) -> Iterator[list[tuple[int, int, int]]]:
    """Yield the places of steps, layers and heads whose maps belong together; -1 stands for a mean."""
    layers, steps = range(len(found.layers)), range(len(found.steps))
    heads = [found.data[path].shape[2] for path in found.layers]
    single = [(p, h) for p in layers for h in range(heads[p]) if heads[p] > 1]
    yield [(-1, -1, -1)]
    yield [*((s, -1, -1) for s in steps), *((-1, p, -1) for p in layers)]
    yield [(-1, p, h) for p, h in single]
    yield [(s, p, -1) for s in steps for p in layers if _ran(found, s, p)]
    yield [(s, p, h) for s in steps for p, h in single if _ran(found, s, p)]


def _grid(found: MapData, layer: int) -> tuple[int, ...]:
    return tuple(found.data[found.layers[layer]].shape[-3:])


def _ran(found: MapData, step: int, layer: int) -> bool:
    return not bool(found.data[found.layers[layer]][step].isnan().any())


def _packed(values: Tensor) -> list[Any]:
    top = float(values.max())
    scaled = (values / (top or 1.0) * 255).round().byte()
    return [float(f"{top:.3g}"), *values.shape, base64.b64encode(scaled.numpy().tobytes()).decode()]


def _png(image: Image.Image) -> str:
    buffer = BytesIO()
    shown = fitted(image, PAGE_SIDE) if max(image.size) > 2 * PAGE_SIDE else image.convert("RGB")
    shown.save(buffer, "png")
    return data_url(buffer.getvalue())
