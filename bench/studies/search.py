"""Compare searches at equal numbers of evaluations: pruning with and without a noise-aware reward, and others.

    python -m bench.studies.search --n 10 --candidates 32

Candidates are drawn once, with their estimates at every step. Pruning and best of n are then replayed on
random parts of that pool, with the counts of the samplers themselves, and checked against real runs. The area
between the curves over the budget is that of TTSnap (2511.22242), section 4. The other searches move noise, so
they run for real. Ranks are measured on tuning prompts, all else on held-out ones. An interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.rewards import NoiseAware, ShapesCLIP
from diffusers_ext.sampling.ttsnap import AWARE, PLAIN, cost, left
from diffusers_ext.zoo import catalogue

from ..pages.markdown import markdown
from ..runner import suite_parser
from . import search_pool
from .search_pool import Pool, turns
from .search_real import real, table

KEEP = (0.4, 0.4)
DRAWS = 40  # random parts of the pool for each prompt
LEVEL = 0.95
BRANCHES = 2  # rows of the denoiser for a candidate at a step
Curve = np.ndarray  # [prompts, budgets]


def ranks(pool: Pool) -> dict[str, list[float]]:
    """Return, by reward and step, the rank correlation of estimates with the finished pictures of a prompt.

    It is Spearman's, averaged over the prompts.
    """
    return {
        name: [
            float(np.mean([spearman(early[p, :, step], pool.finals[p]) for p in range(len(early))]))
            for step in range(early.shape[2])
        ]
        for name, early in pool.early.items()
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def replay(early: np.ndarray, finals: np.ndarray, rows: np.ndarray, plan: Mapping[int, float]) -> int:
    """Return the candidate that pruning by `early [N, S]` and then `finals [N]` picks among `rows`."""
    n = len(rows)
    for step in plan:
        kept = left(n, plan, step)
        if kept < len(rows):
            rows = rows[np.argsort(-early[rows, step], kind="stable")[:kept]]
    return int(rows[np.argmax(finals[rows])])


def affordable(budget: int, plan: Mapping[int, float], steps: int) -> int:
    """Return the largest number of candidates that a budget of evaluations pays for."""
    n = 1
    while BRANCHES * cost(n + 1, plan, steps) <= budget:
        n += 1
    return n


def curves(
    pool: Pool, name: str | None, plan: Mapping[int, float], budgets: Sequence[int], seed: int = 0
) -> dict[str, Curve]:
    """Return the reward and the share of right pictures of what is picked, by prompt and budget.

    Without a `name` nothing is pruned. Random parts of the pool are the same for all plans of one size.
    """
    prompts, size = pool.finals.shape
    early = pool.early[name] if name else np.zeros((prompts, size, 1))
    steps = len(pool.levels)
    found = {"reward": np.zeros((prompts, len(budgets))), "right": np.zeros((prompts, len(budgets)))}
    for p in range(prompts):
        dice = np.random.default_rng((seed, p))
        orders = [dice.permutation(size) for _ in range(DRAWS)]
        for b, budget in enumerate(budgets):
            n = affordable(budget, plan, steps)
            if n > size:
                raise ValueError(f"budget {budget} pays for {n} candidates, and the pool has {size}")
            picks = [replay(early[p], pool.finals[p], np.sort(order[:n]), plan) for order in orders]
            found["reward"][p, b] = pool.finals[p, picks].mean()
            found["right"][p, b] = pool.right[p, picks].mean()
    return found


def area(curve: Curve, start: float, budgets: Sequence[int]) -> float:
    """Return the area under a curve averaged over prompts, above `start`, by Simpson's rule."""
    from scipy.integrate import simpson

    return float(simpson(curve.mean(0) - start, x=budgets))


def omega(method: Curve, plain: Curve, budgets: Sequence[int]) -> dict[str, float]:
    """Return how much larger the area of a method is than that of best of n, with an interval over prompts."""

    def of(rows: np.ndarray) -> float:
        start = plain[rows].mean(0)[0]
        own = area(plain[rows], start, budgets)
        return (area(method[rows], start, budgets) - own) / own

    dice = np.random.default_rng(0)
    count = len(plain)
    drawn = [of(dice.integers(count, size=count)) for _ in range(2000)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"omega": of(np.arange(count)), "low": float(low), "high": float(high)}


def plans(steps: int) -> dict[str, dict[int, float]]:
    """Return the steps at which candidates are dropped, by the kind of reward that they suit."""
    places = {"plain": PLAIN, "aware": AWARE}
    return {
        kind: {round(place * steps): share for place, share in zip(at, KEEP, strict=True)}
        for kind, at in places.items()
    }


def areas(pool: Pool, budgets: Sequence[int]) -> list[dict[str, Any]]:
    """Return the areas of each reward with each plan."""
    plain = curves(pool, None, {}, budgets)
    rows = []
    for kind, plan in plans(len(pool.levels)).items():
        for name in pool.early:
            found = curves(pool, name, plan, budgets)
            rows.append(
                {
                    "reward": name,
                    "plan": kind,
                    "steps": list(plan),
                    "keep": list(plan.values()),
                    **{f"area of {key}": omega(found[key], plain[key], budgets) for key in found},
                    "curve": {key: np.round(found[key].mean(0), 5).tolist() for key in found},
                }
            )
    best = {key: np.round(plain[key].mean(0), 5).tolist() for key in plain}
    return [{"reward": "none", "plan": "best of n", "curve": best}, *rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = suite_parser(__doc__, n=10, batch=32)
    parser.add_argument("--model", default="shapes-sd3")
    parser.add_argument("--candidates", type=int, default=32, help="of each prompt in the pool")
    parser.add_argument("--tuning", type=int, default=4, help="tuning prompts per task")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(range(60, 391, 30)))
    parser.add_argument("--real", type=int, nargs="*", default=[120, 240], help="budgets of real runs")
    parser.add_argument("--real-n", type=int, default=4, help="prompts per task of real runs")
    parser.add_argument("--aware", type=Path, default=None, help="folder of the noise-aware reward")
    parser.add_argument("--work", type=Path, default=Path("out/search"), help="pools and real runs")
    args = parser.parse_args(arguments)
    model = Checkpoint.resolve(args.model)
    pipe = model.load()
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.to(memory_format=torch.channels_last)
    base = ShapesCLIP()
    aware = NoiseAware.from_pretrained(args.aware or catalogue.path("shapes-clip-noise-aware"), base)
    early = {"shapes-clip": base, "noise-aware": aware}
    pools = {}
    for suite, n, count in (("tuning", args.tuning, 16), ("held-out", args.n, args.candidates)):
        asked = turns(questions(suite, n, args.seed))
        folder = args.work / suite
        search_pool.make(pipe, asked, count, model.call, folder)
        pools[suite] = search_pool.score(pipe, asked, model.call, folder, base, early, count)
    found = {
        "model": args.model, **model.marks, "n": args.n, "seed": args.seed, "candidates": args.candidates,
        "weights": fingerprint(args.aware or catalogue.path("shapes-clip-noise-aware")),
        "levels": [round(level, 4) for level in pools["tuning"].levels],
        "ranks": {suite: ranks(pool) for suite, pool in pools.items()},
        "budgets": args.budgets, "areas": areas(pools["held-out"], args.budgets),
        "real": real(pipe, model.call, early, pools["held-out"], turns(questions("held-out", args.n, args.seed)),
                     args.real, args.real_n, args.work / "real"),
        "versions": versions(),
    }  # fmt: skip
    folder = output_folder(args.out)
    write_json(folder / f"search-{args.model}.json", found)
    print(markdown(["search", "reward", "prunes after", "area of reward", "area of right"], summary(found)))
    print(table(found["real"]))


def summary(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of areas."""
    rows = []
    for row in found["areas"][1:]:
        shares = [row[f"area of {key}"] for key in ("reward", "right")]
        cells = [f"{100 * a['omega']:+.0f} % [{100 * a['low']:+.0f}, {100 * a['high']:+.0f}]" for a in shares]
        rows.append(["ttsnap", row["reward"], ", ".join(map(str, row["steps"])), *cells])
    return rows


if __name__ == "__main__":
    main()
