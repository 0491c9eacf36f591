"""Compare ReNO on the one-step model with best of n, at equal evaluations and at equal pictures.

    python -m bench.studies.reno --n 40

All begin with the same noise on the same prompts. A gradient counts as two evaluations, since a backward pass
costs about two forward ones. Each picture on the way has a score and a verdict of the detector, so a reward
that rises while verdicts fall is seen. What is done is kept in the folder `--cache`, so an interrupted run
goes on. Of lr 5, 10 and 20, 10 was chosen on the tuning suite, with 8 prompts of each task and 16 iterations.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusers_ext.evaluate.score import Judged, judge
from diffusers_ext.evaluate.statistics import bootstrap
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.rewards import ShapesCLIP
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.reno import ReNO
from diffusers_ext.sampling.result import Result
from diffusers_ext.sampling.sampler import Sampler

from ..pages.markdown import markdown
from ..runner import suite_parser
from .paired_verdicts import results, table

ITERATIONS = 10
MEASURED = ("shapes-sd-turbo", 1), ("shapes-sd", 4)  # models and steps whose memory is measured
COST = 3 * ITERATIONS - 2  # evaluations of a one-step model: the last iteration is not propagated back
FIRST = 6  # candidates before the refinement


@dataclass(frozen=True)
class Tried:
    """The pictures of one question in the order in which a sampler made them."""

    question: Question
    scores: list[float]
    judged: list[Judged]

    def best(self, count: int) -> int:
        """Return the place of the best of the first `count` pictures; the earliest of equal ones."""
        return max(range(min(count, len(self.scores))), key=lambda i: (self.scores[i], -i))

    def score(self, count: int) -> float:
        return self.scores[self.best(count)]

    def verdict(self, count: int) -> Judged:
        return self.judged[self.best(count)]


class Runner:
    """Runs samplers on questions, and keeps what they tried in a folder."""

    def __init__(self, model: str, cache: Path, batch: int):
        checkpoint = Checkpoint.resolve(model)
        self.pipe, self.call, self.batch = checkpoint.load(), checkpoint.call, batch
        self.fingerprint, self.cache = checkpoint.fingerprint, output_folder(cache)
        self.pipe.set_progress_bar_config(disable=True)

    def tried(self, sampler: Sampler, asked: Sequence[Question]) -> list[Tried]:
        """Return what a sampler tried for each question."""
        about = json.dumps([self.fingerprint, self.call, settings(sampler)], sort_keys=True)
        file = self.cache / f"{hashlib.sha256(about.encode()).hexdigest()[:16]}.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        kept = {(line["prompt"], line["seed"]): line for line in lines}
        todo = [q for q in asked if (q.item.prompt, q.item.seed) not in kept]
        for first in range(0, len(todo), self.batch):
            part = todo[first : first + self.batch]
            found = self._run(sampler, part)
            with file.open("a") as out:
                out.writelines(json.dumps(line) + "\n" for line in found)
            kept |= {(line["prompt"], line["seed"]): line for line in found}
        return [_tried(q, kept[q.item.prompt, q.item.seed]) for q in asked]

    def _run(self, sampler: Sampler, asked: Sequence[Question]) -> list[dict[str, Any]]:
        result = sampler.sample(
            self.pipe,
            [q.item.prompt for q in asked],
            generator=[torch.Generator().manual_seed(q.item.seed) for q in asked],
            progress=False,
            **self.call,
        )
        return [_line(result, place, q) for place, q in enumerate(asked)]


def _line(result: Result, place: int, question: Question) -> dict[str, Any]:
    own = [tried for tried in result.history if tried.prompt == place]
    shown = [Image.fromarray(_picture(tried)) for tried in own]
    item = question.item
    verdicts = [judge(image, item.prompt, item.seed, task=question.task) for image in shown]
    return {
        "prompt": item.prompt,
        "seed": item.seed,
        "scores": [tried.score for tried in own],
        "right": [v.correct for v in verdicts],
        "swapped": [v.swapped for v in verdicts],
    }


def _picture(tried: Any) -> np.ndarray:
    return tried.picture if hasattr(tried, "picture") else list(tried.pictures.values())[-1]


def _tried(question: Question, line: Mapping[str, Any]) -> Tried:
    item, pairs = question.item, zip(line["right"], line["swapped"], strict=True)
    judged = [Judged(item.prompt, item.seed, question.task, right, "", 0.0, swap) for right, swap in pairs]
    return Tried(question, line["scores"], judged)


def settings(sampler: Sampler) -> dict[str, Any]:
    """Return the settings of a sampler that matter here, by name."""
    names = ("iterations", "lr", "momentum", "clip", "norm_weight") if isinstance(sampler, ReNO) else ("n",)
    found = {"sampler": sampler.name, **{name: getattr(sampler, name) for name in names}}
    return found | ({"refine": settings(sampler.refine)} if sampler.refine is not None else {})


def curve(tried: Sequence[Tried], counts: Sequence[int], costs: Sequence[int]) -> list[dict[str, float]]:
    """Return mean reward and accuracy of the best so far, by the number of pictures."""
    return [
        {
            "pictures": count,
            "evaluations": cost,
            "reward": statistics.mean(t.score(count) for t in tried),
            "accuracy": statistics.mean(bool(t.verdict(count).correct) for t in tried),
        }
        for count, cost in zip(counts, costs, strict=True)
    ]


def gap(tried: Sequence[Tried], count: int) -> dict[str, float]:
    """Return how often the reward rose, and how often a right picture became wrong or a wrong one right."""
    first, last = [t.verdict(1).correct for t in tried], [t.verdict(count).correct for t in tried]
    gains = [t.score(count) - t.score(1) for t in tried]
    low, high = bootstrap(gains, range(len(gains)))
    pairs = list(zip(first, last, strict=True))
    return {
        "least": min(gains),
        "gain": statistics.mean(gains),
        "low": low,
        "high": high,
        "rose": statistics.mean(g > 0 for g in gains),
        "spoiled": statistics.mean(a and not b for a, b in pairs),
        "mended": statistics.mean(b and not a for a, b in pairs),
    }


def ahead(
    labels: Mapping[str, tuple[Sequence[Tried], int, int]], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """Return the mean difference of rewards, second minus first of `pairs`, with an interval over prompts."""
    found = {}
    for a, b in pairs:
        (first, few, _), (second, many, _) = labels[a], labels[b]
        gains = [y.score(many) - x.score(few) for x, y in zip(first, second, strict=True)]
        low, high = bootstrap(gains, range(len(gains)))
        found[f"{b} - {a}"] = {"difference": statistics.mean(gains), "low": low, "high": high}
    return found


def memory(model: str, steps: int, prompt: str) -> dict[str, int]:
    """Return the bytes of an iteration at its peak, by option, at a number of steps without guidance."""
    checkpoint = Checkpoint.resolve(model)
    call = {**checkpoint.call, "num_inference_steps": steps, "guidance_scale": 0.0}
    return ReNO(rewards=ShapesCLIP()).memory(checkpoint.load(), prompt, **call)


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return accuracies, paired differences, and reward against truth, for a page."""
    rows = [
        [
            label,
            str(found["evaluations"][label]),
            f"{g['gain']:.3f} ({g['low']:.3f} to {g['high']:.3f})",
            f"{100 * g['rose']:.0f} %",
            f"{100 * g['spoiled']:.1f} %",
            f"{100 * g['mended']:.1f} %",
        ]
        for label, g in found["gap"].items()
    ]
    heads = ["", "evaluations", "reward gained", "reward rose", "right became wrong", "wrong became right"]
    steps = found["curve"]["ReNO"]
    shown = [s for s in steps if s["pictures"] in (1, 2, 4, 8, ITERATIONS)]
    ways = [
        ["ReNO, pictures", *(str(s["pictures"]) for s in shown)],
        ["mean reward", *(f"{s['reward']:.3f}" for s in shown)],
        ["right", *(f"{100 * s['accuracy']:.1f} %" for s in shown)],
    ]
    lines = [
        f"- reward, {name}: {a['difference']:+.3f} ({a['low']:+.3f} to {a['high']:+.3f})"
        for name, a in found["ahead"].items()
    ]
    asked = found["variants"]["plain"]["overall"]["n"]
    made = (
        f"{asked} prompts of {found['suite']}, the same noise for all. The best picture of ReNO never scores "
        f"below the plain one: the least gain is {found['gap']['ReNO']['least']:.3f}."
    )
    return "\n\n".join(
        [table(found) + "\n" + "\n".join(lines), markdown(heads, rows), markdown(ways[0], ways[1:]), made]
    )


def memory_to_markdown(found: Mapping[str, Any]) -> str:
    """Return the memory of an iteration by option and model, for a page."""
    runs = found["memory"]
    options = [name for name in next(iter(runs.values())) if name not in ("as set", "one_by_one")]
    rows = [[f"`{name}`", *(f"{peak[name] / 2**20:.1f} MiB" for peak in runs.values())] for name in options]
    return markdown(["option alone", *runs], rows)


def main() -> None:
    parser = suite_parser(__doc__, n=40, batch=12)
    parser.add_argument("--model", default="shapes-sd-turbo", help="name or folder of a one-step model")
    parser.add_argument("--suite", default="held-out", choices=("held-out", "tuning"))
    parser.add_argument("--lr", type=float, default=10.0)
    parser.add_argument("--cache", type=Path, default=Path("out/reno"))
    args = parser.parse_args()
    runner = Runner(args.model, args.cache, args.batch)
    asked = questions(args.suite, args.n, args.seed, Checkpoint.resolve(args.model).tasks)
    reward, kept = ShapesCLIP(), {"keep_pictures": True, "micro_batch": 16}
    climb = ReNO(rewards=reward, iterations=ITERATIONS, lr=args.lr, **kept)
    ascent = runner.tried(climb, asked)
    many = runner.tried(BestOfN(rewards=reward, n=COST, **kept), asked)
    left = (COST - FIRST + 2) // 3  # iterations that the rest of the evaluations pays for
    second = ReNO(rewards=reward, iterations=left, lr=args.lr, **kept)
    both = runner.tried(BestOfN(rewards=reward, n=FIRST, refine=second, **kept), asked)
    labels = {
        "plain": (many, 1, 1),
        f"best of {ITERATIONS}": (many, ITERATIONS, ITERATIONS),
        f"best of {COST}": (many, COST, COST),
        "ReNO": (ascent, ITERATIONS, COST),
        f"best of {FIRST}, then ReNO": (both, FIRST + left, FIRST + 3 * left - 2),
    }
    judged = {label: [t.verdict(count) for t in tried] for label, (tried, count, _) in labels.items()}
    names = list(labels)
    pairs = [(a, "ReNO") for a in names[:3]] + [(a, names[4]) for a in names[2:4]]
    found = {
        "suite": args.suite,
        "n": args.n,
        "seed": args.seed,
        "command": f"python -m bench.studies.reno --n {args.n} --lr {args.lr:g}",
        "settings": {"ReNO": settings(climb), names[4]: settings(BestOfN(n=FIRST, refine=second))},
        "weights": {args.model: runner.fingerprint},
        "evaluations": {label: cost for label, (*_, cost) in labels.items()},
        **results(judged, pairs),
        "ahead": ahead(labels, pairs),
        "gap": {label: gap(tried, count) for label, (tried, count, _) in labels.items() if count > 1},
        "curve": {
            "ReNO": curve(ascent, range(1, ITERATIONS + 1), range(1, COST + 1, 3)),
            "best of n": curve(many, range(1, COST + 1), range(1, COST + 1)),
        },
        "memory": {
            f"{model}, {steps} step{'s' * (steps > 1)}": memory(model, steps, asked[0].item.prompt)
            for model, steps in MEASURED
        },
        "device": str(runner.pipe.device),
        "versions": versions(),
    }
    print(to_markdown(found), memory_to_markdown(found), sep="\n\n")
    write_json(output_folder(args.out) / f"reno-{args.model}.json", found)


if __name__ == "__main__":
    main()
