"""Compare the one-step student with its teacher at 1 to 15 steps.

    python -m bench.studies.one_step --n 100

All draw the same held-out prompts from the same noise. Seconds are measured on batches in turn, one after the
other, so that the ratios survive a busy machine. A student that always draws the same picture for a prompt
would score well, too. So `spread` measures how much pictures of one prompt differ with the noise, as a share
of the teacher's. Verdicts are kept in the folder `--cache`, so an interrupted run goes on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.zoo import cards

from ..pages.markdown import markdown
from ..runner import suite_parser
from .paired_verdicts import KEPT, results, table, verdicts

SUITE = "held-out"
STEPS = 1, 2, 4, 8, 15  # of the teacher


class Drawer:
    """Draw with a model at a number of steps: `pictures(prompt, seeds)` are float [N, H, W, 3] in 0..1."""

    def __init__(self, model: str, steps: int):
        checkpoint = Checkpoint.resolve(model)
        self.pipe = checkpoint.load()
        self.call = {**checkpoint.call, "num_inference_steps": steps}
        guided = self.call["guidance_scale"] > 1
        self.calls = steps * (1 + guided)  # of the U-Net for a picture

    def pictures(self, prompt: str, seeds: Sequence[int]) -> np.ndarray:
        noise = [torch.Generator().manual_seed(s) for s in seeds]
        return self.pipe([prompt] * len(noise), generator=noise, output_type="np", **self.call).images


def spread(pictures: np.ndarray) -> float:
    """Return the root mean square difference of two pictures of a prompt, over all pairs of [N, H, W, 3]."""
    apart = [np.mean((a - b) ** 2) for a, b in combinations(pictures, 2)]
    return float(np.sqrt(np.mean(apart)))


def drawn(drawers: Mapping[str, Drawer], prompts: Sequence[str], noises: int) -> dict[str, dict[str, float]]:
    """Return seconds a picture (median over prompts) and spread of each drawer, prompt by prompt in turn."""
    seconds: dict[str, list[float]] = {label: [] for label in drawers}
    spreads: dict[str, list[float]] = {label: [] for label in drawers}
    for place, prompt in enumerate(prompts):
        for label, drawer in drawers.items():
            began = time.perf_counter()
            made = drawer.pictures(prompt, range(place * noises, (place + 1) * noises))
            seconds[label].append((time.perf_counter() - began) / noises)
            spreads[label].append(spread(made))
    return {
        label: {
            "calls": drawers[label].calls,
            "seconds": statistics.median(seconds[label]),
            "spread": statistics.mean(spreads[label]),
        }
        for label in drawers
    }


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return accuracies, differences, cost and spread, for a page."""
    facts = found["drawn"]
    teacher = facts[found["reference"]]
    rows = [
        [
            label,
            str(f["calls"]),
            f"{1000 * f['seconds']:.0f} ms",
            f"{teacher['seconds'] / f['seconds']:.1f} x",
            f"{100 * f['spread'] / teacher['spread']:.0f} %",
        ]
        for label, f in facts.items()
    ]
    heads = ["", "U-Net calls", "a picture", "speed", "spread"]
    card, asked = found["card"], found["variants"][found["reference"]]["overall"]["n"]
    made = (
        f"Student: {card['samples']} samples in {card['steps']} steps, {card['hours']:.2f} h on "
        f"{card['hardware']}. {asked} prompts of {found['suite']}, paired by noise; {found['noises']} noises "
        f"for each of {found['prompts']} prompts for time and spread, on {found['device']}."
    )
    return "\n".join([table(found), "", markdown(heads, rows), "", made])


def main() -> None:
    parser = suite_parser(__doc__, n=100, batch=20)
    parser.add_argument("--student", default="shapes-sd-turbo", help="name, or folder that was trained")
    parser.add_argument("--prompts", type=int, default=20, help="prompts for time and spread")
    parser.add_argument("--noises", type=int, default=8, help="pictures of each of them")
    parser.add_argument("--cache", type=Path, default=Path("out/one_step"))
    args = parser.parse_args()
    pupil, out = Checkpoint.resolve(args.student), output_folder(args.out)
    card = cards.card(pupil.home)
    if "teacher" not in card or args.noises < 2:
        parser.error("a student has a card that names its teacher, and a spread takes two noises or more")
    teacher, student = card["teacher"]["name"], Path(args.student).name
    tutor = Checkpoint.resolve(teacher)
    asked = questions(SUITE, args.n, args.seed, tutor.tasks)
    runs = {f"{teacher}, {n} step{'s' * (n > 1)}": (teacher, n) for n in STEPS}
    reference = list(runs)[-1]
    runs[student] = args.student, 1
    judged = {
        label: verdicts(model, Variant(label, ()), asked, args.cache, args.batch, num_inference_steps=n)
        for label, (model, n) in runs.items()
    }
    about = [q.item.prompt for q in questions("tuning", args.prompts, args.seed, ("two_object",))]
    drawers = {label: Drawer(*run) for label, run in runs.items()}
    found = {
        "suite": SUITE,
        "n": args.n,
        "seed": args.seed,
        "card": {key: card[key] for key in KEPT},
        "weights": {student: pupil.fingerprint, teacher: tutor.fingerprint},
        "reference": reference,
        **results(judged, [(label, student) for label in list(runs)[:-1]]),
        "prompts": args.prompts,
        "noises": args.noises,
        "drawn": drawn(drawers, about, args.noises),
        "device": str(drawers[student].pipe.device),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"one_step-{student}.json", found)


if __name__ == "__main__":
    main()
