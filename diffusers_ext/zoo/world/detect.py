"""Detect coloured shapes, without any learned part, and compare them with a spec: the ground truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import ndimage

from .captions import COLOURS, NUMBERS, PLURALS, SHAPES, Object, Spec, parse
from .render import PALETTE, distance

_CHROMA = 0.24  # 0..1; backgrounds stay below 0.1, every palette colour above 0.55
_MIN_AREA = 20  # px; the smallest object of the world covers about 65
_MIN_OVERLAP = 0.72  # soft IoU with the best template; drawn shapes reach 0.85 and more
_BOX = 24  # px, side of the templates
_UNKNOWN = "blob"


@dataclass(frozen=True, slots=True)
class Found:
    """An object was found, with centre (x, y) and area in px. If no template fits, its shape is 'blob'."""

    shape: str
    colour: str
    centre: tuple[float, float]
    area: int
    overlap: float

    @property
    def object(self) -> Object:
        return Object(self.colour, self.shape)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict says whether a picture shows exactly what was asked, what was found, and why.

    `swapped` marks a failure of binding, not of drawing: both objects are there with their colours exchanged.
    """

    correct: bool
    objects: tuple[Found, ...]
    reason: str
    swapped: bool = False


def detect(image: np.ndarray) -> tuple[Found, ...]:
    """Find the objects of an image [H, W, 3], uint8 or float in 0..1, largest first."""
    return tuple(found for found, _ in segmented(image))


def segmented(image: np.ndarray) -> tuple[tuple[Found, np.ndarray], ...]:
    """Find the objects of an image as `detect` does, each with its mask [H, W]."""
    rgb = _as_float(image)
    chroma = rgb.max(-1) - rgb.min(-1)
    labels, count = ndimage.label(chroma > _CHROMA)
    if not count:
        return ()
    # The direction away from grey survives anti-aliasing against a grey background; the raw colour does not.
    hue = (rgb - rgb.mean(-1, keepdims=True)) @ _hues().T
    nearest = hue.argmax(-1)
    found = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == index
        if part.sum() >= _MIN_AREA:
            for piece in _split_by_colour(part, nearest[box]):
                mask = np.zeros(labels.shape, bool)
                mask[box] = piece
                found.append((_describe(piece, box, chroma[box], hue[box]), mask))
    return tuple(sorted(found, key=lambda f: -f[0].area))


def find(image: np.ndarray, name: str) -> np.ndarray | None:
    """Return the mask [H, W] of the largest object of an image that is `name`, such as "a red circle".

    It is `None` if there is none. Raises `ValueError` for a name that is not one object.
    """
    objects = parse(name).objects
    if len(objects) != 1:
        raise ValueError(f"the detector finds one object at a time, got {name!r}; name one")
    return next((mask for found, mask in segmented(image) if found.object == objects[0]), None)


def verify(image: np.ndarray, spec: Spec) -> Verdict:
    """Compare an image with a spec: the same objects, no more and no fewer, and the named relation holds."""
    objects = detect(image)
    seen, asked = Counter(f.object for f in objects), Counter(spec.objects)
    missing, extra = asked - seen, seen - asked
    if spec.swapped and seen == Counter(spec.swapped):
        return Verdict(False, objects, f"the colours are swapped: found {_list(seen)}", swapped=True)
    if missing or extra:
        parts = [f"missing {_list(missing)}"] if missing else []
        parts += [f"found {_list(extra, 'extra ')}"] if extra else []
        return Verdict(False, objects, "; ".join(parts))
    if spec.relation:
        (x0, y0), (x1, y1) = (next(f.centre for f in objects if f.object == o) for o in spec.objects)
        dx, dy = x1 - x0, y1 - y0
        along, across = {"left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[
            spec.relation
        ]
        if along <= abs(across):
            return Verdict(False, objects, f"{spec.objects[0]} is not {spec.relation} {spec.objects[1]}")
    return Verdict(True, objects, f"found {_list(asked)}")


def _as_float(image: np.ndarray) -> np.ndarray:
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(
            f"the detector needs one RGB image [H, W, 3], got shape {array.shape}; pass images one by one"
        )
    return array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)


def _split_by_colour(part: np.ndarray, nearest: np.ndarray) -> list[np.ndarray]:
    """Split a connected part into the connected pieces of each colour, unless one colour dominates it."""
    shares = np.bincount(nearest[part], minlength=len(COLOURS))
    if shares.max() >= 0.85 * shares.sum():
        return [part]
    pieces = []
    for colour in np.flatnonzero(shares >= _MIN_AREA):
        labels, count = ndimage.label(part & (nearest == colour))
        pieces += [labels == i for i in range(1, count + 1) if (labels == i).sum() >= _MIN_AREA]
    return pieces


def _describe(piece: np.ndarray, box: tuple[slice, slice], chroma: np.ndarray, hue: np.ndarray) -> Found:
    colour = COLOURS[hue[piece].sum(0).argmax()]
    # Chroma relative to the object's own full chroma is its coverage: an outline finer than a pixel.
    cover = np.clip(np.where(piece, chroma, 0) / np.percentile(chroma[piece], 80), 0, 1)
    cover = cover[_tight(cover)]
    rows, columns = np.nonzero(piece)
    names, templates = _templates()
    if max(cover.shape) > 2 * min(cover.shape):
        overlaps = np.zeros(len(names))
    else:
        view = _resize(cover)
        overlaps = np.minimum(view, templates).sum((1, 2)) / np.maximum(view, templates).sum((1, 2))
    best = int(overlaps.argmax())
    shape = names[best] if overlaps[best] >= _MIN_OVERLAP else _UNKNOWN
    centre = box[1].start + float(columns.mean()) + 0.5, box[0].start + float(rows.mean()) + 0.5
    return Found(shape, colour, centre, int(piece.sum()), float(overlaps[best]))


def _resize(cover: np.ndarray) -> np.ndarray:
    """Resample [h, w] -> [24, 24] bilinearly, pixel centres aligned to the box."""
    height, width = cover.shape
    at = (np.arange(_BOX) + 0.5) / _BOX
    y, x = np.clip(at * height - 0.5, 0, height - 1), np.clip(at * width - 0.5, 0, width - 1)
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, height - 1), np.minimum(x0 + 1, width - 1)
    fy, fx = (y - y0)[:, None], (x - x0)[None]
    top = cover[y0][:, x0] * (1 - fx) + cover[y0][:, x1] * fx
    return top * (1 - fy) + (cover[y1][:, x0] * (1 - fx) + cover[y1][:, x1] * fx) * fy


@lru_cache(maxsize=1)
def _hues() -> np.ndarray:
    """Return unit directions away from grey [8, 3], one per colour."""
    directions = np.float32([PALETTE[c] for c in COLOURS])
    directions = directions - directions.mean(1, keepdims=True)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


@lru_cache(maxsize=1)
def _templates() -> tuple[tuple[str, ...], np.ndarray]:
    """Return shape names and outlines [T, 24, 24] at several sizes, sharp and as soft as a decoder's."""
    names, views = [], []
    at = np.arange(-18, 18) + 0.5
    for shape, radius, blur in product(SHAPES, (7.0, 9.0, 12.0), (0.0, 0.8, 1.3)):
        cover = np.clip(0.5 - distance(shape, at[None], at[:, None], radius), 0, 1)
        cover = ndimage.gaussian_filter(cover, blur) if blur else cover
        names.append(shape)
        views.append(_resize(cover[_tight(cover)]))
    return tuple(names), np.stack(views)


def _tight(cover: np.ndarray) -> tuple[slice, slice]:
    """Return the bounding box of the pixels that are covered by a third or more."""
    rows, columns = np.flatnonzero((cover > 0.34).any(1)), np.flatnonzero((cover > 0.34).any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _list(objects: Counter[Object], adjective: str = "") -> str:
    """Write objects as 'a red circle and two blue stars', in a fixed order."""
    words = []
    for thing, count in sorted(objects.items()):
        plural = PLURALS.get(thing.shape, thing.shape + "s")
        number = NUMBERS[count - 1] if count <= len(NUMBERS) else str(count)
        if count > 1:
            words.append(f"{number} {adjective}{thing.colour} {plural}")
        else:
            words.append(f"an {adjective}{thing.colour} {thing.shape}" if adjective else str(thing))
    return " and ".join(words)
