"""Measure whether objects are there and have their colours, with methods that read cross-attention.

    python -m bench.studies.binding --n 34

Settings of A-STAR are compared on the tuning suite. The default, its two losses alone, Attend-and-Excite's
loss and structured guidance are then compared with the plain model on held-out prompts of two and three
objects, from the same noise. `shapes` counts pictures with every shape that is asked for, `colours` those
with every colour, `objects` those with every shape in its colour, and `right` those that show nothing else
besides. Verdicts and pictures are kept in the folder `--cache`, so an interrupted run goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.runner import key
from diffusers_ext.evaluate.score import Judged, compare, summarise
from diffusers_ext.evaluate.statistics import accuracy, paired
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.settings.methods import as_dict
from diffusers_ext.zoo.world.captions import Spec, parse
from diffusers_ext.zoo.world.detect import detect, verify

from ..runner import suite_parser
from .paired_verdicts import results, verdicts

MODEL, SUITE, TUNING = "shapes-sd", "held-out", "tuning"
TASKS = ("two_object", "three_object", "color_attr")
PLAIN, STRUCTURED = "plain", "structured"
ASTAR, EXCITE = "A-STAR", "Attend-and-Excite"
SEGREGATION, RETENTION = "segregation alone", "retention alone"
MEASURES = "shapes", "colours", "objects", "right"
Methods = Mapping[str, tuple[Any, ...]]


def tried() -> Methods:
    """Return the settings of A-STAR that are compared on the tuning suite, by their difference."""
    changed: dict[str, dict[str, Any]] = {
        "nouns alone, maps of 8 x 8, all steps": {"adjectives": False, "halvings": 1, "stop": 1.0},
        "nouns alone, all steps": {"adjectives": False, "stop": 1.0},
        "default": {},
        "no retention": {"retention": 0.0},
        "no retention, step size 60": {"retention": 0.0, "step_size": 60.0},
        EXCITE: {"loss": "attend_and_excite"},
    }
    return {label: (dx.AStar(**settings),) for label, settings in changed.items()}


def compared() -> Methods:
    """Return the methods that are compared on held-out prompts, by label."""
    return {
        PLAIN: (),
        STRUCTURED: (dx.StructuredGuidance(),),
        ASTAR: (dx.AStar(),),
        SEGREGATION: (dx.AStar(retention=0.0),),
        RETENTION: (dx.AStar(segregation=0.0),),
        EXCITE: (dx.AStar(loss="attend_and_excite"),),
    }


def seen(picture: np.ndarray, asked: Spec) -> dict[str, bool]:
    """Return what a picture [H, W, 3] shows of what was asked for, by measure."""
    found = [thing.object for thing in detect(picture)]
    wanted = asked.objects

    def holds(part: str) -> bool:
        return Counter(getattr(o, part) for o in wanted) <= Counter(getattr(o, part) for o in found)

    return {
        "shapes": holds("shape"),
        "colours": holds("colour"),
        "objects": Counter(wanted) <= Counter(found),
        "right": verify(picture, asked).correct,
    }


def measured(asked: Sequence[Question], methods: Methods, pictures: Pictures) -> dict[str, Any]:
    """Return the share of each measure by method, and its paired difference from the plain model."""
    made: dict[str, list[dict[str, bool]]] = {}
    for label, each in methods.items():
        name = key(Variant(label, each))
        files = [pictures.path(name, q.item) for q in asked]
        made[label] = [
            seen(np.asarray(Image.open(file)), parse(q.item.prompt))
            for file, q in zip(files, asked, strict=True)
        ]
    prompts = [q.item.prompt for q in asked]
    values = {m: {label: [row[m] for row in rows] for label, rows in made.items()} for m in MEASURES}
    others = [label for label in methods if label != PLAIN]
    return {
        "measures": {label: {m: asdict(accuracy(values[m][label])) for m in MEASURES} for label in methods},
        "changes": {
            label: {m: asdict(paired(values[m][PLAIN], values[m][label], prompts)) for m in MEASURES}
            for label in others
        },
    }


def costs(methods: Methods) -> dict[str, dict[str, float]]:
    """Return evaluations a picture."""
    checkpoint = Checkpoint.resolve(MODEL)
    pipe, call = checkpoint.load(), dict(checkpoint.call)
    pipe.set_progress_bar_config(disable=True)
    (question,) = questions(TUNING, 1, 0, ("three_object",))
    spent = {}
    for label, each in methods.items():
        with dx.apply(pipe, *each) if each else nullcontext():
            one = dx.BestOfN(n=1, rewards=lambda images, _: images.mean((1, 2, 3)))
            cost = one.sample(pipe, question.item.prompt, progress=False, **call).cost
            spent[label] = {"evaluations": cost}
    return spent


def main() -> None:
    parser = suite_parser(__doc__, n=34, batch=17)
    parser.add_argument("--tuning-n", type=int, default=30, help="prompts a task for the choice of settings")
    parser.add_argument("--cache", type=Path, default=Path("out/binding"))
    args = parser.parse_args()
    model, out = Checkpoint.resolve(MODEL), output_folder(args.out)
    pictures = Pictures(output_folder(args.cache / SUITE))

    def judged(suite: str, n: int, variants: Methods, kept: Pictures | None) -> dict[str, list[Judged]]:
        asked = questions(suite, n, args.seed, TASKS)
        return {
            label: verdicts(MODEL, Variant(label, each), asked, args.cache / suite, args.batch, kept)
            for label, each in variants.items()
        }

    tuned = judged(TUNING, args.tuning_n, {PLAIN: ()} | tried(), None)
    methods = compared()
    others = [label for label in methods if label != PLAIN]
    made = judged(SUITE, args.n, methods, pictures)
    found = {
        "model": MODEL,
        "suite": SUITE,
        "n": args.n,
        "tuning_n": args.tuning_n,
        "seed": args.seed,
        "weights": model.fingerprint,
        "call": dict(model.call),
        "tried": {label: summarise(each) for label, each in tuned.items()},
        "tried_paired": {label: compare(tuned[PLAIN], tuned[label])["overall"] for label in tried()},
        "methods": {label: [as_dict(m) for m in each] for label, each in methods.items()},
        **results(made, [(PLAIN, label) for label in others]),
        **measured(questions(SUITE, args.n, args.seed, TASKS), methods, pictures),
        "costs": costs(methods),
        "versions": versions(),
    }
    write_json(out / f"binding-{MODEL}.json", found)


if __name__ == "__main__":
    main()
