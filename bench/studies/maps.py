"""Measure whether the map of a word is where the detector finds what the word names.

    python -m bench.studies.maps --n 100

Prompts name two objects that differ in colour and in shape. Of each object that the detector finds in the
picture, the study takes the box around it. It counts how often the largest value of a map is inside the box,
and the share of the map inside. Chance is the share of places in the box. As a control it takes the map of
the same kind of word of the other object. The layer with most hits is chosen on the tuning suite. All other
figures are of held-out prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from diffusers_ext import explore
from diffusers_ext.evaluate.statistics import mean, share
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.zoo.world.captions import COLOURS, SHAPES, Object, parse
from diffusers_ext.zoo.world.detect import Found, detect

from ..pages.markdown import markdown
from ..runner import suite_parser

MODEL, TASK = "shapes-sd", "color_attr"
KINDS = "shape", "colour", "phrase"
MEASURES = {"hit": share, "control": share, "chance": mean, "mass": mean}
ALL = "mean of all layers"
COLOURED = 0.24  # chroma from which a pixel belongs to an object, as in the detector
SAME = 0.2  # difference of areas up to which a coloured part is the object that was found


@dataclass(frozen=True, slots=True)
class Row:
    """What one map does: the object it names in the picture of a prompt, and where the map is."""

    prompt: int
    kind: str
    word: str
    layer: str
    hit: bool
    control: bool
    chance: float
    mass: float


def words_of(thing: Object) -> dict[str, str]:
    """Return the words that name an object, by kind."""
    return {"shape": thing.shape, "colour": thing.colour, "phrase": f"{thing.colour} {thing.shape}"}


def box_of(picture: np.ndarray, found: Found) -> tuple[slice, slice] | None:
    """Return rows and columns of the box around an object in a picture `[H, W, 3]`, uint8.

    It is `None` if the object touches another one, so that its edges are not known.
    """
    chroma = (picture.max(-1).astype(float) - picture.min(-1)) / 255
    labels, count = ndimage.label(chroma > COLOURED)
    boxes = ndimage.find_objects(labels)
    for number in range(1, count + 1):
        area = int((labels == number).sum())
        y, x = ndimage.center_of_mass(labels == number)
        apart = np.hypot(x + 0.5 - found.centre[0], y + 0.5 - found.centre[1])
        if apart < 1 and abs(area - found.area) <= SAME * found.area:
            return boxes[number - 1]
    return None


def inside(box: tuple[slice, slice], grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return the places of a grid whose centres are in a box of a picture of `size` px, `[h, w]`."""
    rows, columns = ((np.arange(n) + 0.5) * px / n for n, px in zip(grid, size, strict=True))
    y, x = box
    return ((rows >= y.start) & (rows < y.stop))[:, None] & ((columns >= x.start) & (columns < x.stop))


def measured(values: np.ndarray, other: np.ndarray, within: np.ndarray) -> dict[str, Any]:
    """Measure a map `[h, w]`, and that of the other object, against the places of a box."""
    return {
        "hit": bool(within.flat[values.argmax()]),
        "control": bool(within.flat[other.argmax()]),
        "chance": float(within.mean()),
        "mass": float(values[within].sum() / values.sum()),
    }


def rows_of(pipe: Any, asked: Sequence[Question]) -> tuple[list[Row], int]:
    """Return a row for each object found, each kind of word and each layer, and how many were not."""
    rows, missed = [], 0
    for number, question in enumerate(asked):
        spec = parse(question.item.prompt)
        words = [word for thing in spec.objects for word in words_of(thing).values()]
        maps = explore.maps(pipe, question.item.prompt, words, seed=question.item.seed)
        picture = np.asarray(maps.image)
        seen = {found.object: found for found in detect(picture)}
        for thing, other in (spec.objects, spec.objects[::-1]):
            box = box_of(picture, seen[thing]) if thing in seen else None
            if box is None:
                missed += 1
                continue
            for kind, word in words_of(thing).items():
                for layer in (ALL, *maps.layers):
                    path = None if layer == ALL else layer
                    own, others = (
                        maps.map(text, layer=path)[0].numpy() for text in (word, words_of(other)[kind])
                    )
                    within = inside(box, own.shape, picture.shape[:2])
                    rows.append(Row(number, kind, word, layer, **measured(own, others, within)))
    return rows, missed


def summary(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each measure with its interval, by layer and kind of word; prompts are drawn, not objects."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.layer, row.kind].append(row)
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (layer, kind), own in groups.items():
        prompts = [row.prompt for row in own]
        found[layer][kind] = {m: of([getattr(r, m) for r in own], prompts) for m, of in MEASURES.items()}
    return dict(found)


def by_word(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return how often each shape and each colour hits, with its interval, in the mean of all layers."""
    own = [row for row in rows if row.layer == ALL and row.kind != "phrase"]
    found = {}
    for word in (*SHAPES, *COLOURS):
        some = [row for row in own if row.word == word]
        if some:
            found[word] = share([row.hit for row in some], [row.prompt for row in some])
    return found


def best_layer(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the layer whose maps of shapes hit most often, the first of equals."""
    layers = [layer for layer in found if layer != ALL]
    return max(layers, key=lambda name: found[name]["shape"]["hit"]["mean"])


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the table of hits and of mass, and how it was made, for a page."""

    def percent(entry: Mapping[str, float]) -> str:
        return f"{100 * entry['mean']:.0f} % ({100 * entry['low']:.0f} to {100 * entry['high']:.0f})"

    rows = []
    for layer in (ALL, found["layer"]):
        for kind, values in found["held_out"][layer].items():
            name = layer if layer == ALL else f"`{layer}`"
            rows.append([name, kind, *(percent(values[m]) for m in MEASURES)])
    heads = ["layer", "word", "peak in the box", "peak of the other word", "chance", "map in the box"]
    one = found["held_out"][ALL]["shape"]["hit"]
    made = (
        f"{found['model']}, {found['n']} held-out prompts for two objects that differ in colour and shape. "
        f"The detector found {one['n']} of the objects apart from others; the other {found['missed']} are "
        f"left out. The second layer was chosen on {found['tuning']} prompts of tuning. Intervals hold 95 %, "
        "over prompts; where all or none hit, they are Wilson's of as many trials as prompts."
    )
    shapes = [f"{word} {100 * found['by_word'][word]['mean']:.0f} %" for word in SHAPES]
    each = f"Peaks in the box by shape, in the mean of all layers: {', '.join(shapes)}."
    return "\n".join([markdown(heads, rows), "", f"{made} {each}"])


def main() -> None:
    parser = suite_parser(__doc__, n=100, batch=1)
    parser.add_argument("--tuning", type=int, default=30, help="prompts that the layer is chosen on")
    args = parser.parse_args()
    checkpoint, out = Checkpoint.resolve(MODEL), output_folder(args.out)
    pipe = checkpoint.load()
    pipe.set_progress_bar_config(disable=True)
    tuned, _ = rows_of(pipe, questions("tuning", args.tuning, args.seed, (TASK,)))
    rows, missed = rows_of(pipe, questions("held-out", args.n, args.seed, (TASK,)))
    found = {
        "model": MODEL,
        "task": TASK,
        "n": args.n,
        "tuning": args.tuning,
        "seed": args.seed,
        "missed": missed,
        "weights": checkpoint.fingerprint,
        "call": dict(checkpoint.call),
        "layer": best_layer(summary(tuned)),
        "held_out": summary(rows),
        "by_word": by_word(rows),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"maps-{MODEL}.json", found)


if __name__ == "__main__":
    main()
