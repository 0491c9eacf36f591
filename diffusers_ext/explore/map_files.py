"""Write maps of words: contact sheets, a page in which they are chosen, and the numbers."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
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

SCALED = (
    "The share of its attention that a place pays to the word, from 0 to the largest value of the map, which "
    "is below it."
)
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
        "pictures": [_png(frame) for frame in _frames(found)],
        "ramp": base64.b64encode(ramp.tobytes()).decode(),
        "maps": entries,
    }
    notes = [SCALED]
    if not complete:
        notes.append(
            "This page has means over layers or steps only, since all maps would make it larger than "
            f"{PAGE_BYTES >> 20} MiB; TokenMaps.map(word, step=..., layer=...) has the others."
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
    frames = _frames(found)
    covered = [overlay(frames[i], values[i].numpy()) for i in range(len(values))]
    if len(covered) > 1:
        covered = [Clip(np.stack([np.asarray(each) for each in covered])).sheet()]
    top = f"{float(values.max()):.3g}"
    return Cell(covered[0], (label, top) if label else (top,))


def _frames(found: MapData) -> list[Image.Image]:
    """Return the picture, or for each frame of the maps the first frame of the clip that it stands for."""
    if not isinstance(found.image, Clip):
        return [found.image]
    frames, count = found.image.frames, found.grid[0]
    pace = (len(frames) - 1) / max(count - 1, 1)
    places = [0] + [min(round((i - 1) * pace) + 1, len(frames) - 1) for i in range(1, count)]
    return [Image.fromarray(frames[place]) for place in places]


def _entries(found: MapData) -> tuple[dict[str, list[Any]], bool]:
    """Return maps by "word,step,layer,head", and whether all that exist are there; -1 stands for a mean.

    Each is `[largest, frames, rows, columns, base64]` of bytes scaled by the largest value.
    """
    made = {key: _packed(found.map(w, step=s, layer=p, head=h)) for key, (w, s, p, h) in _means(found)}
    steps, words = len(found.steps), len(found.words)
    more = steps * words * sum(each[0, 0, 0].numel() * (each.shape[2] + 1) for each in found.data.values())
    complete = more <= PAGE_BYTES
    if complete:
        made |= {key: _packed(found.map(w, step=s, layer=p, head=h)) for key, (w, s, p, h) in _single(found)}
    return made, complete


Key = tuple[str, tuple[str, int | None, str | None, int | None]]


def _means(found: MapData) -> Iterator[Key]:
    for i, word in enumerate(found.words):
        yield f"{i},-1,-1,-1", (word.label, None, None, None)
        for j, step in enumerate(found.steps):
            yield f"{i},{j},-1,-1", (word.label, step, None, None)
        for j, path in enumerate(found.layers):
            yield f"{i},-1,{j},-1", (word.label, None, path, None)
            for head in _heads(found, path):
                yield f"{i},-1,{j},{head}", (word.label, None, path, head)


def _single(found: MapData) -> Iterator[Key]:
    for i, word in enumerate(found.words):
        for j, path in enumerate(found.layers):
            ran = ~found.data[path].flatten(1).isnan().any(1)
            for row, step in enumerate(found.steps):
                if ran[row]:
                    yield f"{i},{row},{j},-1", (word.label, step, path, None)
                    for head in _heads(found, path):
                        yield f"{i},{row},{j},{head}", (word.label, step, path, head)


def _heads(found: MapData, path: str) -> Sequence[int]:
    count = found.data[path].shape[2]
    return range(count) if count > 1 else ()


def _packed(values: Tensor) -> list[Any]:
    top = float(values.max())
    scaled = (values / (top or 1.0) * 255).round().to(dtype=values.dtype).numpy().astype(np.uint8)
    return [float(f"{top:.4g}"), *values.shape, base64.b64encode(scaled.tobytes()).decode()]


def _png(image: Image.Image) -> str:
    buffer = BytesIO()
    shown = fitted(image, PAGE_SIDE) if max(image.size) > 2 * PAGE_SIDE else image.convert("RGB")
    shown.save(buffer, "png")
    return data_url(buffer.getvalue())
