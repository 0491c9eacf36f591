"""Measure what distillation recovers: a model, the same model with CLEAR, and a student with CLEAR.

    diffusers-ext train clear --set radius=2 --out runs/clear-r2
    python -m bench.studies.distillation --student runs/clear-r2 --n 50

All three draw the same held-out prompts from the same noise. Verdicts are kept in the folder `--cache`, so an
interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers_ext as dx
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.settings.methods import as_dict
from diffusers_ext.zoo import cards

from ..runner import suite_parser
from .paired_verdicts import KEPT, results, table, verdicts

SUITE = "held-out"
DENSE, BARE, STUDENT = "dense", "CLEAR", "CLEAR, distilled"
PAIRS = ((DENSE, BARE), (DENSE, STUDENT), (BARE, STUDENT))


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the table of accuracies and what the student is, for a page."""
    card, method, asked = found["card"], found["method"], found["variants"][DENSE]["overall"]["n"]
    made = (
        f"Radius {method['radius']}; {card['samples']} samples in {card['steps']} steps, "
        f"{card['hours']:.2f} h on {card['hardware']}; {asked} prompts of {found['suite']}, paired by noise."
    )
    return "\n".join([table(found), "", made])


def main() -> None:
    parser = suite_parser(__doc__, n=50, batch=20)
    parser.add_argument("--student", required=True, help="folder that 'train clear' wrote")
    parser.add_argument("--cache", type=Path, default=Path("out/distillation"))
    args = parser.parse_args()
    card, out = cards.card(Path(args.student)), output_folder(args.out)
    if "teacher" not in card:
        parser.error(f"{args.student} has no card that names its teacher; give what 'train clear' wrote")
    teacher, method = card["teacher"]["name"], dx.preset(args.student, "clear")
    asked = questions(SUITE, args.n, args.seed, Checkpoint.resolve(teacher).tasks)
    judged = {
        label: verdicts(model, Variant(label, used), asked, args.cache, args.batch)
        for label, model, used in (
            (DENSE, teacher, ()),
            (BARE, teacher, (method,)),
            (STUDENT, args.student, (method,)),
        )
    }
    found = {
        "suite": SUITE,
        "n": args.n,
        "seed": args.seed,
        "method": as_dict(method),
        "card": {key: card[key] for key in KEPT},
        **results(judged, PAIRS),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"distillation-{Path(teacher).name}-clear-r{method.radius}.json", found)


if __name__ == "__main__":
    main()
