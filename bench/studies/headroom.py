"""Measure how much there is to gain on a model: the best of several seeds, guidance scales and step counts.

    python -m bench.studies.headroom --model shapes-sd3 --reward shapes-clip

It uses tuning prompts, so that choices made from these charts never flatter reported figures. "Oracle" takes
a right picture, by the verdict of the detector, if any of k seeds gives one. No method that only chooses
seeds can do better. An interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.preferences import check_painter, scores_of
from diffusers_ext.evaluate.report.plot import save
from diffusers_ext.evaluate.runner import answer, key
from diffusers_ext.evaluate.score import Judged, summarise
from diffusers_ext.evaluate.statistics import bootstrap
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.outputs.files import output_folder, slug, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.rewards import ShapesCLIP
from diffusers_ext.sampling.items import Item
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.world.suites import TASKS

from ..runner import suite_parser
from .headroom_chart import chart, choosers

SUITE = "tuning"
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
STEPS = (2, 4, 8, 15, 30)
SEEDS = 10**17  # between the noise of two seeds of a prompt; suites stay well below
PLAIN = Variant("plain")

Scorer = Callable[[Sequence[Any], Sequence[str]], list[float]]  # PIL images and their prompts -> scores


def again(asked: Sequence[Question], seed: int) -> list[Question]:
    """Return the same prompts with other noise; seed 0 is the suite's own."""
    return [Question(q.task, Item(q.item.prompt, q.item.seed + seed * SEEDS)) for q in asked]


def oracle(right: np.ndarray, k: int) -> np.ndarray:
    """Return the chance [prompts] that at least one of `k` seeds from all [prompts, seeds] is right."""
    seeds = right.shape[1]
    wrong = seeds - right.sum(1)
    return np.array([1 - comb(int(w), k) / comb(seeds, k) for w in wrong])


def chosen(right: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return the chance [prompts] that the best-scored of `k` seeds from all [prompts, seeds] is right."""
    seeds = right.shape[1]
    ranked = np.take_along_axis(right, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    leads = np.array([comb(seeds - 1 - place, k - 1) / comb(seeds, k) for place in range(seeds)])
    return ranked @ leads


def interval(values: np.ndarray) -> dict[str, float]:
    """Return the mean of one value per prompt, with the interval of a bootstrap over prompts."""
    low, high = bootstrap(values, range(len(values)))
    return {"accuracy": float(values.mean()), "low": low, "high": high, "n": len(values)}


class Bench:
    """Hold one model, its prompts, and a folder of finished pictures for each setting of the call."""

    def __init__(
        self, model: Checkpoint, pipe: Any, asked: Sequence[Question], folder: Path, batch: int
    ) -> None:
        self.pipe, self.asked, self.folder, self.batch = pipe, asked, folder, batch
        self.call = model.call
        self.identity = {**model.marks, "dtype": str(pipe.dtype)}

    def run(self, seed: int = 0, **change: Any) -> tuple[list[Judged], list[Path]]:
        """Return verdicts and pictures of every prompt under `change` of the call."""
        from diffusers_ext.sampling.call import arguments

        call = arguments(self.pipe, self.call, **change)
        name = f"cfg {call.get('guidance_scale', 1.0):g} steps {call['num_inference_steps']}"
        home = output_folder(self.folder / slug(name))
        store, pictures = Store(home, self.identity | {"call": call}), Pictures(home)
        asked = again(self.asked, seed)
        judged = answer(self.pipe, PLAIN, asked, call, store, self.batch, pictures=pictures)
        return judged, [pictures.path(key(PLAIN), q.item) for q in asked]


def best_of(bench: Bench, most: int, scorers: Mapping[str, Scorer]) -> dict[str, Any]:
    """Return the accuracy of the best of 1 to `most` seeds, chosen by each scorer and by the detector."""
    columns, paths = [], []
    for seed in range(most):
        judged, files = bench.run(seed)
        columns.append([bool(j.correct) for j in judged])
        paths.append(files)
    right = np.array(columns).T
    tasks = np.array([q.task for q in bench.asked])
    counts = [k for k in range(1, most + 1) if k & (k - 1) == 0 or k == most]
    found: dict[str, Any] = {"counts": counts, "oracle": [], **{name: [] for name in scorers}}
    ranks = {name: _scores(scorer, bench.asked, paths) for name, scorer in scorers.items()}
    for k in counts:
        found["oracle"].append(_by_task(oracle(right, k), tasks))
        for name, scores in ranks.items():
            found[name].append(_by_task(chosen(right, scores, k), tasks))
    return found


def _scores(scorer: Scorer, asked: Sequence[Question], paths: Sequence[Sequence[Path]]) -> np.ndarray:
    """Return scores [prompts, seeds]."""
    from PIL import Image

    prompts = [q.item.prompt for q in asked]
    return np.array([scorer([Image.open(p).convert("RGB") for p in files], prompts) for files in paths]).T


def _by_task(values: np.ndarray, tasks: np.ndarray) -> dict[str, Any]:
    own = {task: interval(values[tasks == task]) for task in TASKS if task in tasks}
    return {"tasks": own, "overall": interval(values)}


def sweep(bench: Bench, argument: str, values: Sequence[float]) -> list[dict[str, Any]]:
    """Return accuracy and seconds per image over values of one argument of the call."""
    rows = []
    for value in values:
        judged, _ = bench.run(**{argument: value})
        seconds = sum(j.seconds for j in judged) / len(judged)
        rows.append({"value": value, **summarise(judged), "seconds_per_image": seconds})
    return rows


def reward(name: str) -> Scorer:
    """Load a learned reward of the zoo as a scorer; raises `SystemExit` if there is none."""
    if name not in catalogue.REWARDS:
        raise SystemExit(f"error: unknown reward {name!r}; the zoo has {', '.join(catalogue.REWARDS)}")
    try:
        return partial(scores_of, ShapesCLIP().score)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    parser = suite_parser(__doc__, n=20, batch=16)
    parser.add_argument("--model", default="shapes-sd3")
    parser.add_argument("--best-of", type=int, default=8)
    parser.add_argument("--reward", action="append", default=[], help="learned reward that chooses, too")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--device", default=None)
    parser.add_argument("--work", type=Path, default=Path("out/headroom"), help="pictures and verdicts")
    args = parser.parse_args(arguments)
    scorers = {name: reward(name) for name in args.reward}
    label = slug(args.model)
    try:
        model = Checkpoint.resolve(args.model)
        asked = questions(SUITE, args.n, args.seed, model.tasks)
        pipe = model.load(args.device)
        if scorers:
            check_painter(args.model, pipe)
        bench = Bench(model, pipe, asked, args.work / label, args.batch)
        found = {
            "model": args.model, "suite": SUITE, "n": args.n, "seed": args.seed, **bench.identity,
            "rewards": {name: fingerprint(catalogue.path(name)) for name in scorers},
            "call": bench.call, "best_of": best_of(bench, args.best_of, scorers),
            "guidance": sweep(bench, "guidance_scale", args.scales),
            "steps": sweep(bench, "num_inference_steps", args.steps), "versions": versions(),
        }  # fmt: skip
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    folder = output_folder(args.out)
    write_json(folder / f"headroom-{label}.json", found)
    save(chart(found), folder / f"headroom-{label}")
    for chooser in choosers(found["best_of"]):
        shares = [f"{100 * e['overall']['accuracy']:.0f} %" for e in found["best_of"][chooser]]
        print(f"best of {found['best_of']['counts']} by {chooser}: {', '.join(shares)}")
    print(f"wrote {folder / f'headroom-{label}.json'}")


if __name__ == "__main__":
    main()
