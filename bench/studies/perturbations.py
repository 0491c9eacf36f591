"""Compare the perturbations of SoftPAG by right pictures, beside classifier-free guidance and without it.

    python -m bench.studies.perturbations --n 20

Prompts of two and three objects are those of tuning: the result is a choice of settings. All variants of a
prompt have the same noise, layer and strength. The layer is the second of the first block on the way up: that
of the mid block, where PAG acts, hardly changes pictures of this model. Verdicts are kept in the folder
`--cache`, so an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers_ext as dx
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.evaluate.words import change, percent
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.settings.methods import as_dict

from ..pages.markdown import markdown
from ..runner import suite_parser
from .paired_verdicts import results, verdicts

MODEL, SUITE = "shapes-sd", "tuning"
TASKS = ("two_object", "three_object", "color_attr")
LAYER = "up_blocks.0.attentions.1.transformer_blocks.0.attn1"
PLAIN = "plain"
MODES = "identity", "uniform", "segment_mean", "max", "temperature", "shuffle"
# By way of drawing: what the call has in place of the model's own, and the scale of SoftPAG.
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "without classifier-free guidance": ({"guidance_scale": 1.0}, 3.0),
    "with classifier-free guidance": ({}, 1.0),
}


def variants(scale: float) -> dict[str, tuple[dx.SoftPAG, ...]]:
    """Return the methods that are compared, by label."""
    methods = {mode: (dx.SoftPAG({LAYER: None}, scale, 1.0, perturbation=mode),) for mode in MODES}
    return {PLAIN: (), **methods}


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return accuracies and paired differences from the plain model, for a page."""
    ways = found["ways"]
    rows = []
    for label in next(iter(ways.values()))["variants"]:
        cells = []
        for way in ways.values():
            cells.append(percent(way["variants"][label]["overall"]))
            cells.append("" if label == PLAIN else change(way["paired"][f"{label} - {PLAIN}"]))
        rows.append([label, *cells])
    heads = [""]
    for name, way in ways.items():
        heads += [f"{name}, scale {way['scale']:g}: right", "change in points"]
    made = (
        f"{found['model']}, {found['n']} prompts a task of {found['suite']} for {', '.join(found['tasks'])}, "
        "paired by noise; intervals are of 95 %."
    )
    return "\n".join([markdown(heads, rows), "", made])


def main() -> None:
    parser = suite_parser(__doc__, n=20, batch=20)
    parser.add_argument("--way", choices=WAYS, action="append", help="a way of drawing; all without one")
    parser.add_argument("--cache", type=Path, default=Path("out/perturbations"))
    args = parser.parse_args()
    chosen = {name: WAYS[name] for name in args.way or WAYS}
    model, out = Checkpoint.resolve(MODEL), output_folder(args.out)
    asked, ways = questions(SUITE, args.n, args.seed, TASKS), {}
    for name, (call, scale) in chosen.items():
        judged = {
            label: verdicts(MODEL, Variant(label, methods), asked, args.cache, args.batch, **call)
            for label, methods in variants(scale).items()
        }
        pairs = [(PLAIN, label) for label in MODES]
        ways[name] = {"call": {**model.call, **call}, "scale": scale, **results(judged, pairs)}
    found = {
        "model": MODEL,
        "suite": SUITE,
        "tasks": list(TASKS),
        "n": args.n,
        "seed": args.seed,
        "weights": model.fingerprint,
        "methods": {
            name: {label: [as_dict(m) for m in methods] for label, methods in variants(scale).items()}
            for name, (_, scale) in chosen.items()
        },
        "ways": ways,
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"perturbations-{MODEL}.json", found)


if __name__ == "__main__":
    main()
