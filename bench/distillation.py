"""What distillation gives back: a model, the same with CLEAR, and a student of it with CLEAR.

    diffusers-ext train clear --set radius=2 --out runs/clear-r2
    python -m bench.distillation --student runs/clear-r2 --n 50

All three draw the same held-out prompts from the same noise. Verdicts are kept in the folder `--cache`, so an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers_ext as dx
from diffusers_ext.commands import options as opt
from diffusers_ext.commands.eval import model_folder
from diffusers_ext.evaluate.blocks import markdown
from diffusers_ext.evaluate.compare import Variant, difference, percent
from diffusers_ext.evaluate.run import answer
from diffusers_ext.evaluate.score import compare, summarise
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.evaluate.weights import fingerprint
from diffusers_ext.metadata import output_folder, versions, write_json
from diffusers_ext.settings import as_dict
from diffusers_ext.zoo import CARD

if TYPE_CHECKING:
    from diffusers_ext.evaluate.score import Judged
    from diffusers_ext.evaluate.suite import Question

RESULTS = Path(__file__).parent / "results"
SUITE = "held-out"
DENSE, BARE, STUDENT = "dense", "CLEAR", "CLEAR, distilled"
PAIRS = ((DENSE, BARE), (DENSE, STUDENT), (BARE, STUDENT))
KEPT = "samples", "steps", "hours", "hardware", "seed", "teacher"  # of the card


def verdicts(
    model: str, label: str, method: Any, asked: Sequence[Question], cache: Path, batch: int
) -> list[Judged]:
    """Of one model with a method or without, in the order of `asked`."""
    pipe, call = opt.open_model(model), opt.defaults(model)
    weights = fingerprint(model_folder(model))
    store = Store(output_folder(cache / weights[:12]), {"weights": weights, "call": call})
    return answer(pipe, Variant(label, (method,) if method else ()), asked, call, store, batch)


def results(judged: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """Accuracies by variant and task, and the paired differences."""
    pairs = {f"{b} - {a}": compare(judged[a], judged[b])["overall"] for a, b in PAIRS}
    return {"variants": {label: summarise(found) for label, found in judged.items()}, "paired": pairs}


def table(found: Mapping[str, Any]) -> str:
    """Accuracy by task and the differences, for a page."""
    variants = found["variants"]
    tasks = list(variants[DENSE]["tasks"])
    rows = [
        [f"`{t}`", *(f"{100 * v['tasks'][t]['accuracy']:.0f} %" for v in variants.values())] for t in tasks
    ]
    rows.append(["all", *(percent(v["overall"]) for v in variants.values())])
    lines = [f"- {name}: {difference(p)}" for name, p in found["paired"].items()]
    card, method = found["card"], found["method"]
    made = (
        f"Radius {method['radius']}; {card['samples']} samples in {card['steps']} steps, "
        f"{card['hours']:.2f} h on {card['hardware']}; {variants[DENSE]['overall']['n']} prompts of "
        f"{found['suite']}, paired by noise."
    )
    return "\n".join([markdown(["task", *variants], rows), "", *lines, "", made])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", required=True, help="folder that 'train clear' wrote")
    parser.add_argument("--n", type=int, default=50, help="prompts per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=Path("out/distillation"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    card = json.loads((Path(args.student) / CARD).read_text())
    teacher, method = card["teacher"]["name"], dx.preset(args.student, "clear")
    asked = questions(SUITE, args.n, args.seed, opt.tasks(teacher))
    judged = {
        label: verdicts(model, label, used, asked, args.cache, args.batch)
        for label, model, used in (
            (DENSE, teacher, None),
            (BARE, teacher, method),
            (STUDENT, args.student, method),
        )
    }
    found = {
        "suite": SUITE,
        "n": args.n,
        "seed": args.seed,
        "method": as_dict(method),
        "card": {key: card[key] for key in KEPT},
        **results(judged),
        "versions": versions(),
    }
    print(table(found))
    write_json(args.out / f"distillation-{Path(teacher).name}-clear-r{method.radius}.json", found)


if __name__ == "__main__":
    main()
