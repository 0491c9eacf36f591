"""Time the models of the zoo: pictures one at a time and in batches, on one thread and on all.

    python -m bench.timing.speed --threads 1 2

The cases take turns in one run (A B A B ...) and each shows the median of its rounds; ratios are those of the
same run. Two checks come with each time. The pictures of a batch equal those made one at a time, up to `off`
steps of 255. `right` counts the pictures that the detector finds right.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from diffusers_ext.evaluate.score import judge
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.record import versions
from diffusers_ext.sampling.clip import still
from diffusers_ext.sampling.generate import generate
from diffusers_ext.training.machine import hardware
from diffusers_ext.zoo import catalogue

from ..ledger import Row
from ..pages.markdown import markdown
from ..runner import options, run
from .stopwatch import Stopwatch, in_turns

BATCHES = (1, 16)
PICTURES = 16
PROMPTS = 200  # the table shows the seconds for these, without loading and detection
LINE = "{model:16} {threads} {batch:2} {seconds:.3f} {off} {right} {pictures}"


def measure(model: str, threads: Sequence[int], rounds: int) -> list[Row]:
    """Return a row for each number of threads and batch size.

    `seconds` is the time of a picture or clip; `off` is the largest difference from pictures made alone, in
    steps of 255.
    """
    checkpoint = Checkpoint.resolve(model)
    pipe, call, tasks = checkpoint.load(), checkpoint.call, checkpoint.tasks
    asked = [q.item for q in questions("train-like", -(-PICTURES // len(tasks)), 0, tasks)][:PICTURES]
    cases = [(n, batch) for n in threads for batch in BATCHES]
    made: dict[tuple[int, int], list[Any]] = {}

    def draw(count: int, batch: int) -> None:
        torch.set_num_threads(count)
        made[count, batch] = [p for part in generate(pipe, asked, call, batch) for p in part]

    before = torch.get_num_threads()
    try:
        list(generate(pipe, asked[:1], call))
        times = in_turns(Stopwatch("cpu"), *(partial(draw, *case) for case in cases), repeats=rounds)
    finally:
        torch.set_num_threads(before)
    return [
        {
            "model": model,
            "threads": case[0],
            "batch": case[1],
            "seconds": statistics.median(took) / 1e3 / len(asked),
            "off": _off(made[cases[0]], made[case]),
            "right": _right(made[case]),
            "pictures": len(asked),
        }
        for case, took in zip(cases, times, strict=True)
    ]


def _off(one: Sequence[Any], other: Sequence[Any]) -> int:
    steps = ([np.asarray(still(p.image), np.int16) for p in made] for made in (one, other))
    return max(int(np.abs(a - b).max()) for a, b in zip(*steps, strict=True))


def _right(pictures: Sequence[Any]) -> int:
    return sum(bool(judge(p.image, p.item.prompt, p.item.seed).correct) for p in pictures)


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the table of seconds, one line a model, with the gain of batches and threads."""
    cases = sorted({(r["threads"], r["batch"]) for r in found["rows"]})
    lines = []
    for model in dict.fromkeys(r["model"] for r in found["rows"]):
        mine = {(r["threads"], r["batch"]): r for r in found["rows"] if r["model"] == model}
        best = min(mine.values(), key=lambda r: r["seconds"])
        off = max(r["off"] for r in mine.values())
        seconds = [f"{mine[case]['seconds']:.3f}" for case in cases]
        right = f"{best['right']} of {best['pictures']}"
        lines.append([model, *seconds, f"{PROMPTS * best['seconds']:.0f}", str(off), right])
    heads = [f"{t} thread{'s' * (t > 1)}, {'alone' if b == 1 else f'{b} at once'}" for t, b in cases]
    table = markdown(["seconds each", *heads, f"{PROMPTS} prompts, s", "largest difference", "right"], lines)
    return f"{found['hardware']}, torch {found['torch']}.\n\n{table}"


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    parser = options(__doc__, device="cpu")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    facts = {"hardware": hardware().rpartition(", ")[0], "versions": versions()}
    cases = {model: partial(measure, model, args.threads, args.rounds) for model in catalogue.MODELS}
    return run("speed", cases, args, LINE, **facts)


if __name__ == "__main__":
    main()
