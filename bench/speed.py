"""How fast do the models of the zoo draw: one at a time and in batches, on one thread and on all.

    python -m bench.speed --threads 1 2

The cases take turns in one run (A B A B ...) and each shows the median of its rounds; ratios are those of the
same run. The check beside each time: the pictures of a batch are those that come one at a time, up to `off`
steps of 255, and so many are right by the judge.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusers_ext.commands import options as opt
from diffusers_ext.evaluate.blocks import markdown
from diffusers_ext.evaluate.generate import generate
from diffusers_ext.evaluate.score import judge
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.evaluate.video import still
from diffusers_ext.outputs.record import versions
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.train.machine import hardware

from .ledger import Ledger
from .timing import RESULTS, machine, results_file

BATCHES = (1, 16)
PICTURES = 16


@dataclass(frozen=True)
class Row:
    """Seconds a picture or clip; `off`: largest difference from one at a time in steps of 255."""

    model: str
    threads: int
    batch: int
    seconds: float
    off: int
    right: int
    pictures: int

    @property
    def eval_200(self) -> float:
        """Seconds of 200 prompts, without loading and judging."""
        return 200 * self.seconds


def measure(model: str, threads: Sequence[int], rounds: int) -> list[Row]:
    """A row for each number of threads and batch size."""
    pipe, call = opt.open_model(model, None), opt.defaults(model)
    tasks = opt.tasks(model)
    asked = [q.item for q in questions("train-like", -(-PICTURES // len(tasks)), 0, tasks)][:PICTURES]
    cases = [(n, batch) for n in threads for batch in BATCHES]
    took: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    made: dict[tuple[int, int], list[Any]] = {}
    before = torch.get_num_threads()
    try:
        list(generate(pipe, asked[:1], call))
        for _ in range(rounds):
            for count, batch in cases:
                torch.set_num_threads(count)
                pictures = [p for part in generate(pipe, asked, call, batch) for p in part]
                took[count, batch].append(statistics.mean(p.seconds for p in pictures))
                made[count, batch] = pictures
    finally:
        torch.set_num_threads(before)
    alone = made[cases[0]]
    return [
        Row(
            model=model,
            threads=case[0],
            batch=case[1],
            seconds=statistics.median(took[case]),
            off=_off(alone, made[case]),
            right=_right(made[case]),
            pictures=len(asked),
        )
        for case in cases
    ]


def _off(one: Sequence[Any], other: Sequence[Any]) -> int:
    steps = ([np.asarray(still(p.image), np.int16) for p in made] for made in (one, other))
    return max(int(np.abs(a - b).max()) for a, b in zip(*steps, strict=True))


def _right(pictures: Sequence[Any]) -> int:
    return sum(bool(judge(p.image, p.item.prompt, p.item.seed).correct) for p in pictures)


def told(found: Mapping[str, Any]) -> str:
    """Table of seconds, one line a model, with the gain of batches and threads."""
    rows = [Row(**r) for r in found["rows"]]
    cases = sorted({(r.threads, r.batch) for r in rows})
    lines = []
    for model in dict.fromkeys(r.model for r in rows):
        mine = {(r.threads, r.batch): r for r in rows if r.model == model}
        best = min(mine.values(), key=lambda r: r.seconds)
        off = max(r.off for r in mine.values())
        shares = [f"{mine[case].seconds:.3f}" for case in cases]
        lines.append([model, *shares, f"{best.eval_200:.0f}", str(off), f"{best.right} of {best.pictures}"])
    heads = [f"{t} thread{'s' * (t > 1)}, {'alone' if b == 1 else f'{b} at once'}" for t, b in cases]
    table = markdown(["seconds each", *heads, "200 prompts, s", "largest difference", "right"], lines)
    return f"{found['hardware']}, torch {found['torch']}.\n\n{table}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(catalogue.MODELS), choices=list(catalogue.MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    where = machine("cpu")
    facts = {"hardware": hardware().rpartition(", ")[0], "versions": versions()}
    ledger = Ledger(results_file(args.out, "speed", where), where, args.models, **facts)
    for model in args.models:
        with ledger.case(model):
            for row in measure(model, args.threads, args.rounds):
                ledger.add(row)
                print(
                    f"{row.model:<16} {row.threads} thread(s), batch {row.batch:>2}: {row.seconds:.3f} s "
                    f"each, off by {row.off}, {row.right} of {row.pictures} right",
                    flush=True,
                )
    ledger.finish(lambda row: True)


if __name__ == "__main__":
    main()
