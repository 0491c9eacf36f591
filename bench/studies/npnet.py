"""Compare the noise of an NPNet, and of the pairs it learned from, with plain noise.

    python -m bench.studies.npnet --suite tuning --n 50

All draw the same prompts from the same seeds. `plain` is the noise of the seed, `npnet` what the network
makes of it, and `pairs` what re-denoise sampling makes of it, which is the network's target. `filtered`
compares pictures of the pairs that the reward would have kept. Cost is counted in operations and
timed in turn with the call. Verdicts are kept in the folder `--cache`, so an interrupted run goes on.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffusers_ext.evaluate.score import Judged, compare, judge, summarise
from diffusers_ext.evaluate.statistics import paired
from diffusers_ext.evaluate.suite import Question, questions
from diffusers_ext.evaluate.words import difference, percent
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.rewards.shapes import ShapesCLIP
from diffusers_ext.sampling.generate import to_image
from diffusers_ext.sampling.host_call import HostCall, Starts
from diffusers_ext.sampling.npnet.redenoise import re_denoise
from diffusers_ext.sampling.npnet.transform import NPNet, prompt_embeds
from diffusers_ext.zoo import cards, catalogue

from ..pages.markdown import markdown
from ..runner import suite_parser

PLAIN, NETWORK, PAIRS = ARMS = ("plain", "npnet", "pairs")
TIMES = 5  # of each measurement of time


class Bench:
    """A pipeline, an NPNet for it and how its pairs were made; `draw` makes pictures of all arms."""

    def __init__(self, home: Path, arms: Sequence[str] = ARMS):
        self.card, self.npnet, self.arms = cards.card(home), NPNet.from_pretrained(home), arms
        self.checkpoint = Checkpoint.resolve(self.card["noise_of"])
        self.pipe, self.reward = self.checkpoint.load(), ShapesCLIP()
        made = self.card["collection"]
        self.settings = {key: made[key] for key in ("steps", "w_denoise", "w_invert")}

    def noise(self, host: HostCall, starts: Starts) -> dict[str, torch.Tensor]:
        """Return the noise of each arm, `[R, C, h, w]`."""
        ways = {
            PLAIN: lambda: starts.noise,
            NETWORK: lambda: self.npnet(host, starts.noise),
            PAIRS: lambda: re_denoise(host, starts, **self.settings),
        }
        return {arm: ways[arm]() for arm in self.arms}

    @torch.no_grad()
    def draw(self, asked: Sequence[Question]) -> list[dict[str, Any]]:
        """Return a row for each arm and question: the verdict and the reward."""
        items = [q.item for q in asked]
        seeds = [torch.Generator().manual_seed(item.seed) for item in items]
        host = HostCall(self.pipe, [item.prompt for item in items], seeds, **self.checkpoint.call)
        host.pipe.set_progress_bar_config(disable=True)
        starts, rows = host.draw(1), []
        for arm, noise in self.noise(host, starts).items():
            pictures = host.run(starts.with_noise(noise), output_type="pt").float()
            scores = self.reward.score(pictures, host.prompts).tolist()
            arrays = pictures.permute(0, 2, 3, 1).numpy()
            for q, array, score in zip(asked, arrays, scores, strict=True):
                verdict = judge(to_image(array, q.item), q.item.prompt, q.item.seed, task=q.task)
                rows.append({"arm": arm, "score": score, **asdict(verdict)})
        return rows


def run(bench: Bench, asked: Sequence[Question], batch: int, file: Path) -> list[dict[str, Any]]:
    """Draw what `file` does not hold yet, and return all rows."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = len(rows) // len(bench.arms)
    for first in range(done, len(asked), batch):
        made = bench.draw(asked[first : first + batch])
        # Arms of a question stay together, so that a file that ends early holds complete questions.
        count = len(made) // len(bench.arms)
        made = [made[arm * count + i] for i in range(count) for arm in range(len(bench.arms))]
        with file.open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in made)
        rows += made
    return rows[: len(asked) * len(bench.arms)]


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return accuracies by arm, differences to plain noise, changes of the reward, and a filter's effect."""
    arms = {arm: [row for row in rows if row["arm"] == arm] for arm in dict.fromkeys(r["arm"] for r in rows)}
    names = Judged.__dataclass_fields__
    judged = {
        arm: [Judged(**{k: row[k] for k in names if k in row}) for row in own] for arm, own in arms.items()
    }
    found: dict[str, Any] = {"variants": {arm: summarise(own) for arm, own in judged.items()}}
    others = [arm for arm in arms if arm != PLAIN]
    found["paired"] = {f"{arm} - {PLAIN}": compare(judged[PLAIN], judged[arm]) for arm in others}
    found["reward"] = {}
    for arm in others:
        gains = [b["score"] - a["score"] for a, b in zip(arms[PLAIN], arms[arm], strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        better = sum(g > 0 for g in gains) / len(gains)
        found["reward"][arm] = {"mean": statistics.mean(gains), "standard_error": error, "better": better}
    if PAIRS in arms:
        scores = ([row["score"] for row in arms[arm]] for arm in (PLAIN, PAIRS))
        kept = [i for i, (plain, pair) in enumerate(zip(*scores, strict=True)) if pair > plain]
        both = ([judged[arm][i].correct for i in kept] for arm in (PLAIN, PAIRS))
        found["filtered"] = asdict(paired(*both)) if kept else None
    return found


@torch.no_grad()
def cost(bench: Bench) -> dict[str, float]:
    """Return operations and seconds of the network and of the call of the pipeline, for one picture."""
    host = HostCall(bench.pipe, "a red circle", torch.Generator().manual_seed(0), **bench.checkpoint.call)
    host.pipe.set_progress_bar_config(disable=True)
    starts, text = host.draw(1), prompt_embeds(host)
    works = {
        "network": lambda: bench.npnet.model(starts.noise, text),
        "call": lambda: host.run(starts, output_type="pt"),
    }
    found: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for name, work in works.items():
        with FlopCounterMode(display=False) as counter:
            work()
        found[f"{name}_operations"] = counter.get_total_flops()
    for _ in range(TIMES):
        for name, work in works.items():
            began = time.process_time()
            work()
            seconds[name].append(time.process_time() - began)
    found |= {f"{name}_seconds": statistics.median(own) for name, own in seconds.items()}
    for unit in ("operations", "seconds"):
        found[f"share_of_{unit}"] = found[f"network_{unit}"] / found[f"call_{unit}"]
    return found


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return accuracies by task and arm, and the differences, for a page."""
    variants = found["variants"]
    tasks = list(variants[PLAIN]["tasks"])
    rows = [[f"`{t}`", *(percent(v["tasks"][t]) for v in variants.values())] for t in tasks]
    rows.append(["all", *(percent(v["overall"]) for v in variants.values())])
    lines = [f"- {name}: {difference(p['overall'])}" for name, p in found["paired"].items()]
    for arm, change in found["reward"].items():
        lines.append(
            f"- reward, {arm}: {change['mean']:+.4f} (standard error {change['standard_error']:.4f}), better "
            f"for {100 * change['better']:.0f} %"
        )
    if found.get("filtered"):
        lines.append(f"- pairs that the reward keeps: {difference(found['filtered'])}")
    spent = found["cost"]
    lines.append(
        f"- the network costs {100 * spent['share_of_operations']:.1f} % of the operations of a call, and "
        f"{100 * spent['share_of_seconds']:.1f} % of its time on one core"
    )
    return "\n".join([markdown(["task", *variants], rows), "", *lines])


def main() -> None:
    parser = suite_parser(__doc__, n=100, batch=20)
    parser.add_argument("--suite", default="tuning")
    parser.add_argument("--npnet", default=catalogue.NOISES[0], help="a name of the zoo, or a trained folder")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--cache", type=Path, default=Path("out/npnet"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    home = catalogue.path(args.npnet) if args.npnet in catalogue.NOISES else Path(args.npnet)
    bench, out = Bench(home, args.arms.split(",")), output_folder(args.out)
    asked = questions(args.suite, args.n, args.seed, bench.checkpoint.tasks)
    mark = f"{args.suite}-{args.seed}-{args.n}-{len(bench.arms)}-{fingerprint(home)[:12]}.jsonl"
    rows = run(bench, asked, args.batch, output_folder(args.cache) / mark)
    found = {
        "suite": args.suite,
        "n": args.n,
        "seed": args.seed,
        "model": bench.card["noise_of"],
        "weights": {"npnet": fingerprint(home), bench.card["noise_of"]: bench.checkpoint.fingerprint},
        **figures(rows),
        "cost": cost(bench),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"npnet-{bench.card['noise_of']}-{args.suite}.json", found)


if __name__ == "__main__":
    main()
