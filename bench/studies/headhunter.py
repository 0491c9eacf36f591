"""Measure whether heads that HeadHunter finds draw better pictures than a layer that is perturbed as one.

    python -m bench.studies.headhunter --model shapes-sd --n 20

Heads are searched with the learned reward on tuning prompts. The rival is PAG on its best layer. Both then
try as many settings on the same prompts, and the layer gets about as many pictures. What is best for each is
compared with the plain model on held-out prompts: at its usual number of steps, and at one that takes as many
evaluations of the denoiser as guidance does. Pictures are paired by their noise. Everything is kept in the
folder `--cache`, so an interrupted run goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import diffusers_ext as dx
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.runner import answer
from diffusers_ext.evaluate.score import Judged, compare, summarise
from diffusers_ext.evaluate.statistics import mean
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.evaluate.words import difference, percent
from diffusers_ext.evaluate.words import reward as reward_words
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.processors.head_set import Head
from diffusers_ext.sampling.call import arguments

from ..pages.markdown import markdown
from ..runner import suite_parser

MODELS = "shapes-sd", "shapes-sd3"  # that the page shows
SUITE, TUNING = "held-out", "tuning"
PACK = 12  # rows of a call
# Scale and strength. A layer tries as many of `ALONE` as it has heads, and the best layer `MORE`.
ALONE = (3.0, 0.25), (1.0, 1.0), (1.0, 0.25), (3.0, 1.0)
MORE = (0.5, 1.0), (1.0, 0.5), (2.0, 0.5), (2.0, 1.0), (3.0, 0.5), (5.0, 0.25)
PLAIN, LONGER, LAYER = "plain", "plain, more steps", "best layer"
HEADS, FAST = "HeadHunter", "FastHeadHunter"
PAIRS = (PLAIN, HEADS), (LONGER, HEADS), (LAYER, HEADS), (PLAIN, LAYER), (HEADS, FAST)


class Bench:
    """One model, with a reward beside each verdict."""

    def __init__(self, name: str, cache: Path, batch: int) -> None:
        self.model = Checkpoint.resolve(name)
        self.pipe, self.cache, self.batch = self.model.load(), cache, batch
        self.reward = dx.rewards.ShapesCLIP()

    def judged(self, label: str, asked: Sequence[Question], *methods: Any, **call: Any) -> list[Judged]:
        """Return verdicts with their rewards; `call` replaces the model's defaults."""
        call = arguments(self.pipe, self.model.call, **call)
        folder = output_folder(self.cache / f"{call['num_inference_steps']}-steps")
        store = Store(folder, {**self.model.marks, "call": call})
        sampler = dx.BestOfN(n=1, rewards=self.reward)  # one picture, with its reward
        variant = Variant(label, methods, sampler, ({"name": "shapes-clip"},))
        return answer(self.pipe, variant, asked, call, store, self.batch)

    def found(
        self, kind: type[dx.HeadHunter], asked: Sequence[Question]
    ) -> tuple[dx.HeadSet, dict[str, dict[Head, list[float]]]]:
        """Return the heads that a search finds on some questions, and the scores of single heads by kind."""
        hunter = kind(self.reward, pairs=len(asked), pack=PACK)
        prompts, seeds = [q.item.prompt for q in asked], [q.item.seed for q in asked]
        folder = output_folder(self.cache / kind.__name__)
        heads = hunter.search(self.pipe, prompts, seeds, out=folder, model=self.model.name, progress=False)
        return heads, logged(folder / "log.jsonl")


def logged(file: Path) -> dict[str, dict[Head, list[float]]]:
    """Read a log: the values of single heads, pair by pair, of the kinds `score` and `move`."""
    found: dict[str, dict[Head, dict[int, float]]] = {}
    for row in map(json.loads, file.read_text().splitlines()[1:]):
        if row["path"] is not None:
            own = found.setdefault(row["base"], {}).setdefault(Head(row["path"], row["head"]), {})
            own[row["pair"]] = row["score"]  # a pack may have been drawn twice
    return {kind: {head: list(own.values()) for head, own in of.items()} for kind, of in found.items()}


def reliability(scores: Mapping[Head, Sequence[float]], splits: int = 200) -> float:
    """Return the rank correlation of the mean scores of heads on random halves of the pairs."""
    values = np.array(list(scores.values()))
    draws, found = np.random.default_rng(0), []
    for _ in range(splits):
        order = draws.permutation(values.shape[1])
        halves = np.array_split(order, 2)
        found.append(spearmanr(*(values[:, half].mean(1) for half in halves)).statistic)
    return float(np.mean(found))


def movers(moves: Mapping[Head, Sequence[float]]) -> list[Head]:
    """Return the half of the heads that moves the latents most."""
    return sorted(moves, key=lambda head: -fmean(moves[head]))[: math.ceil(len(moves) / 2)]


def guided(heads: Any, setting: tuple[float, float]) -> dx.SoftPAG:
    """Return SoftPAG with a scale and a strength."""
    return dx.SoftPAG(heads=heads, scale=setting[0], strength=setting[1])


def sets(heads: dx.HeadSet) -> dict[str, dx.SoftPAG]:
    """Return what is tried with the heads of a search: the best one, three and all, with two settings."""
    counts = sorted({1, min(3, len(heads.picks)), len(heads.picks)})
    return {
        f"{k} head{'s' * (k > 1)}, scale {s[0]:g}, strength {s[1]:g}": guided(heads.best(k), s)
        for k in counts
        for s in ALONE[:2]
    }


def layers(heads: dx.HeadSet) -> dict[str, dx.SoftPAG]:
    """Return what is tried with single layers, at least as many as there are heads."""
    each = math.ceil(sum(map(len, heads.alone.values())) / len(heads.alone))
    return {
        f"{layer}, scale {s[0]:g}, strength {s[1]:g}": guided({layer: None}, s)
        for layer in heads.alone
        for s in ALONE[:each]
    }


def more(best: dx.SoftPAG) -> dict[str, dx.SoftPAG]:
    """Return the further settings that are tried with the best layer."""
    (layer,) = best.heads
    return {f"{layer}, scale {s[0]:g}, strength {s[1]:g}": guided(best.heads, s) for s in MORE}


def tried(bench: Bench, asked: Sequence[Question], methods: Mapping[str, dx.SoftPAG]) -> dict[str, float]:
    """Return the mean reward of each method on some questions."""
    return {label: fmean(j.reward for j in bench.judged(label, asked, m)) for label, m in methods.items()}


def best(scores: Mapping[str, float]) -> str:
    """Return the label with the highest score, the first one of equals."""
    return max(scores, key=scores.__getitem__)


def longer(steps: int, guided_rows: float, plain_rows: float) -> int:
    """Return the number of steps in which the plain model takes the evaluations of guidance, rounded up."""
    return math.ceil(steps * guided_rows / plain_rows)


def tune(bench: Bench, asked: Sequence[Question]) -> tuple[dict[str, dx.SoftPAG], dict[str, Any]]:
    """Return the best methods by label, and what was found on the way."""
    (heads, log), (fast, probes) = bench.found(dx.HeadHunter, asked), bench.found(dx.FastHeadHunter, asked)
    own = sets(heads)
    scores = tried(bench, asked, own)
    single = layers(heads)
    layer_scores = tried(bench, asked, single)
    single |= (extra := more(single[best(layer_scores)]))
    layer_scores |= tried(bench, asked, extra)
    chosen = own[best(scores)]
    count = len(chosen.heads.picks)
    methods = {
        LAYER: single[best(layer_scores)],
        HEADS: chosen,
        FAST: guided(fast.best(count), (chosen.scale, chosen.strength)),
    }
    picked, quick = ({Head(p.path, p.head) for p in found.picks} for found in (heads, fast))
    return methods, {
        "search": {**searched(heads), "reliability": reliability(log["score"])},
        "fast": {
            **searched(fast),
            "shared": len(picked & quick),
            "movers": len(picked & set(movers(probes["move"]))),
        },
        "tried": {HEADS: scores, LAYER: layer_scores},
        "chosen": {HEADS: best(scores), LAYER: best(layer_scores)},
        "tuning_pictures": {
            HEADS: heads.found["pictures"] + len(asked) * len(scores),
            LAYER: len(asked) * len(layer_scores),
        },
    }


def searched(heads: dx.HeadSet) -> dict[str, Any]:
    """Return what a search found, for the file of results."""
    facts = {name: heads.found[name] for name in ("plain", "pictures", "evaluations", "pairs", "top_k")}
    return {**facts, "picks": [list(p)[:3] for p in heads.picks], "alone": heads.alone}


def results(judged: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """Return shares, rewards and costs by variant, and the paired differences of `PAIRS`."""
    variants = {
        label: {
            **summarise(found),
            "reward": mean([j.reward for j in found], [j.prompt for j in found]),
            "evaluations": fmean(j.cost for j in found),
        }
        for label, found in judged.items()
    }
    paired = {}
    for a, b in PAIRS:
        gains = [y.reward - x.reward for x, y in zip(judged[a], judged[b], strict=True)]
        paired[f"{b} - {a}"] = {
            "right": compare(judged[a], judged[b])["overall"],
            "reward": mean(gains, [j.prompt for j in judged[a]]),
        }
    return {"variants": variants, "paired": paired}


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the held-out table, the paired differences, and what the searches took, for a page."""
    rows = [
        [label, percent(v["overall"]), reward_words(v["reward"]), f"{v['evaluations']:.0f}"]
        for label, v in found["variants"].items()
    ]
    lines = []
    for name, pair in found["paired"].items():
        gain = pair["reward"]
        reward = f"reward {gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
        lines.append(f"- {name}: {difference(pair['right'])}; {reward}")
    search, fast, chosen, took = (found[name] for name in ("search", "fast", "chosen", "tuning_pictures"))
    made = (
        f"{found['model']}, {found['variants'][PLAIN]['overall']['n']} held-out prompts. Chosen on "
        f"{search['pairs']} tuning prompts: {chosen[HEADS]} ({took[HEADS]} pictures); {chosen[LAYER]} "
        f"({took[LAYER]} pictures). FastHeadHunter took {fast['evaluations']} evaluations, HeadHunter "
        f"{search['evaluations']}; {fast['shared']} of {search['top_k']} heads are the same, and "
        f"{fast['movers']} are in the half that moves latents most. Between halves of the pairs, ranks of "
        f"heads correlate by {search['reliability']:.2f}."
    )
    table = markdown(["", "right", "reward", "evaluations"], rows)
    return "\n".join([table, "", *lines, "", made])


def main() -> None:
    parser = suite_parser(__doc__, n=20, batch=PACK)
    parser.add_argument("--model", default="shapes-sd")
    parser.add_argument("--tuning-n", type=int, default=3, help="tuning prompts a task")
    parser.add_argument("--cache", type=Path, default=Path("out/headhunter"))
    args = parser.parse_args()
    name, out = Path(args.model).name, output_folder(args.out)
    bench = Bench(args.model, args.cache / name, args.batch)
    tasks = bench.model.tasks
    methods, facts = tune(bench, questions(TUNING, args.tuning_n, args.seed, tasks))
    asked = questions(SUITE, args.n, args.seed, tasks)
    steps = bench.model.call["num_inference_steps"]
    judged = {PLAIN: bench.judged(PLAIN, asked)}
    judged |= {label: bench.judged(label, asked, method) for label, method in methods.items()}
    rows = [judged[label][0].cost for label in (HEADS, PLAIN)]
    judged |= {LONGER: bench.judged(LONGER, asked, num_inference_steps=longer(steps, *rows))}
    order = {label: judged[label] for label in (PLAIN, LONGER, LAYER, HEADS, FAST)}
    found = {
        "model": name,
        "suite": SUITE,
        "n": args.n,
        "seed": args.seed,
        "weights": bench.model.fingerprint,
        "call": dict(bench.model.call),
        **facts,
        **results(order),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"headhunter-{name}.json", found)


if __name__ == "__main__":
    main()
