"""Measure whether objects are there and have their colours, with methods that read cross-attention.

    python -m bench.studies.binding --n 100

A-STAR's step sizes are compared on the tuning suite. The best of them, Attend-and-Excite's loss and
structured guidance are then compared with the plain model on held-out prompts of two and three objects, from
the same noise. Verdicts are kept in the folder `--cache`, so an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers_ext as dx
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.score import Judged, summarise
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.settings.methods import as_dict

from ..pages.markdown import markdown
from ..runner import suite_parser
from .paired_verdicts import results, table, verdicts

MODEL, SUITE, TUNING = "shapes-sd", "held-out", "tuning"
TASKS = ("two_object", "three_object", "color_attr")
STEP_SIZES = (5.0, 20.0, 60.0)
LOSSES = ("astar", "attend_and_excite")


def tried() -> dict[str, dx.AStar]:
    """Return the settings that are compared on the tuning suite, by label."""
    return {
        f"{loss}, step size {size:g}": dx.AStar(loss=loss, step_size=size)
        for loss in LOSSES
        for size in STEP_SIZES
    }


def best(found: Mapping[str, Sequence[Judged]]) -> dict[str, str]:
    """Return the label with the most right pictures for each loss; the smaller step where two are equal."""
    right = {label: sum(bool(j.correct) for j in judged) for label, judged in found.items()}
    return {
        loss: max((n for n in right if n.startswith(f"{loss},")), key=right.__getitem__) for loss in LOSSES
    }


def candidates(chosen: Mapping[str, str]) -> dict[str, tuple[Any, ...]]:
    """Return the methods that are compared on held-out prompts, by label."""
    settings = tried()
    return {
        "plain": (),
        "structured": (dx.StructuredGuidance(),),
        "structured, conjunction": (dx.StructuredGuidance(form="conjunction"),),
        "A-STAR": (settings[chosen["astar"]],),
        "Attend-and-Excite": (settings[chosen["attend_and_excite"]],),
    }


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return accuracies, differences, and the tuning that chose the settings, for a page."""
    swaps = [
        [label, f"{100 * facts['tasks']['color_attr']['swapped']:.0f} %"]
        for label, facts in found["variants"].items()
    ]
    tuning = [
        [label, f"{100 * facts['overall']['accuracy']:.0f} %"] for label, facts in found["tried"].items()
    ]
    made = (
        f"{found['model']}, {found['n']} prompts a task of {found['suite']}, paired by noise; settings were "
        f"chosen on {found['tuning_n']} prompts a task of {TUNING}."
    )
    return "\n".join(
        [
            table(found),
            "",
            markdown(["`color_attr`", "colours swapped"], swaps),
            "",
            markdown([f"{TUNING} suite", "right"], tuning),
            "",
            made,
        ]
    )


def main() -> None:
    parser = suite_parser(__doc__, n=100, batch=20)
    parser.add_argument("--tuning-n", type=int, default=20, help="prompts a task for the choice of settings")
    parser.add_argument("--cache", type=Path, default=Path("out/binding"))
    args = parser.parse_args()
    model, out = Checkpoint.resolve(MODEL), output_folder(args.out)

    def judged(suite: str, n: int, variants: Mapping[str, tuple[Any, ...]]) -> dict[str, list[Judged]]:
        asked = questions(suite, n, args.seed, TASKS)
        return {
            label: verdicts(MODEL, Variant(label, methods), asked, args.cache / suite, args.batch)
            for label, methods in variants.items()
        }

    tuned = judged(TUNING, args.tuning_n, {"plain": ()} | {label: (m,) for label, m in tried().items()})
    chosen = best(tuned)
    variants = candidates(chosen)
    found = {
        "model": MODEL,
        "suite": SUITE,
        "n": args.n,
        "tuning_n": args.tuning_n,
        "seed": args.seed,
        "weights": model.fingerprint,
        "call": dict(model.call),
        "tried": {label: summarise(each) for label, each in tuned.items()},
        "methods": {label: [as_dict(m) for m in methods] for label, methods in variants.items()},
        **results(judged(SUITE, args.n, variants), [("plain", label) for label in list(variants)[1:]]),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"binding-{MODEL}.json", found)


if __name__ == "__main__":
    main()
