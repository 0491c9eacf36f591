"""Measure whether cross-attention to the words of an object is where the object is drawn.

    python -m bench.studies.binding_maps --n 24

Pictures of two objects are drawn by the plain model. Of those that are right, it counts how often the largest
value of a map of A-STAR is on the object that its words name. Words are the noun alone, or the noun with its
colour. `covered` is the mean share of the picture that an object covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import diffusers_ext as dx
from diffusers_ext.evaluate.statistics import accuracy
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.evaluate.words import percent
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.detect import segmented, verify

from ..pages.markdown import markdown
from ..runner import parser_of
from .binding import MODEL, TUNING

NOUN, PHRASE = "noun", "noun and colour"
STEPS = 1, 4, 8, 15


def looking(notes: list[list[Tensor]], **settings: Any) -> dx.AStar:
    """Return A-STAR that moves nothing and adds the maps of each step, a tensor `[C, h, w]` a picture."""

    class Looking(dx.AStar):
        def _loss(self, number: int, maps: Tensor, *about: Any) -> Tensor:
            if number == 0:
                notes.append([])
            notes[-1].append(maps.detach())
            return 0 * maps.sum()

    return Looking(stop=1.0, **settings)


def on_object(plane: Tensor, mask: np.ndarray) -> bool:
    """Return whether the largest value of a map `[h, w]` is on an object, which covers `mask [H, W]`.

    A place of the map is on it where the object covers a quarter of the place or more.
    """
    covered = F.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None, None], plane.shape)[0, 0]
    return bool(covered.flatten()[plane.argmax()] >= 0.25)


def measure(n: int, seed: int) -> dict[str, Any]:
    """Return the shares by size of maps, words and step, `{"16 x 16": {NOUN: {"3": ...}}}`."""
    checkpoint = Checkpoint.resolve(MODEL)
    pipe, call = checkpoint.load(), dict(checkpoint.call)
    pipe.set_progress_bar_config(disable=True)
    asked = questions(TUNING, n, seed, ("color_attr",))
    prompts = [question.item.prompt for question in asked]
    shares: dict[str, dict[str, dict[str, Any]]] = {}
    areas: list[float] = []
    for halvings, (kind, adjectives) in product((0, 1), ((PHRASE, True), (NOUN, False))):
        notes: list[list[Tensor]] = []
        noise = [torch.Generator().manual_seed(question.item.seed) for question in asked]
        with dx.apply(pipe, looking(notes, halvings=halvings, adjectives=adjectives)):
            pictures = [np.asarray(image) for image in pipe(prompts, generator=noise, **call).images]
        hits: dict[int, list[bool]] = {step: [] for step in STEPS}
        for number, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
            spec = parse(prompt)
            if not verify(picture, spec).correct:
                continue
            masks = {thing.object: mask for thing, mask in segmented(picture)}
            areas += [mask.mean() for mask in masks.values()]
            for step, (place, thing) in product(STEPS, enumerate(spec.objects)):
                hits[step].append(on_object(notes[step - 1][number][place], masks[thing]))
        h, w = notes[0][0].shape[-2:]
        each = {str(step): asdict(accuracy(values)) for step, values in hits.items()}
        shares.setdefault(f"{h} x {w}", {})[kind] = each
    return {"shares": shares, "covered": float(np.mean(areas))}


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the share of words whose map is largest on their object, for a page."""
    rows = [
        [size, kind, *(percent(entry) for entry in each.values())]
        for size, kinds in found["shares"].items()
        for kind, each in kinds.items()
    ]
    first = next(iter(next(iter(found["shares"].values())).values()))
    made = (
        f"{found['model']}, {next(iter(first.values()))['n']} objects in the right pictures of {found['n']} "
        f"prompts of {found['suite']}. An object covers {100 * found['covered']:.0f} % of its picture."
    )
    return "\n".join([markdown(["maps", "words", *(f"step {step}" for step in first)], rows), "", made])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--n", type=int, default=24, help="prompts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = {
        "model": MODEL,
        "suite": TUNING,
        "n": args.n,
        "seed": args.seed,
        "weights": Checkpoint.resolve(MODEL).fingerprint,
        **measure(args.n, args.seed),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(output_folder(args.out) / f"binding-maps-{MODEL}.json", found)


if __name__ == "__main__":
    main()
