"""Replay pruning and best of n on random parts of a pool, and compare the areas under their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusers_ext.evaluate.statistics import bootstrap
from diffusers_ext.sampling.ttsnap import AWARE, PLAIN, cost, left

from .search_pool import Pool

KEEP = (0.4, 0.4)
DRAWS = 40  # random parts of the pool for each prompt
LEVEL = 0.95
BRANCHES = 2  # rows of the denoiser for a candidate at a step
Curve = np.ndarray  # [prompts, budgets]


def ranks(pool: Pool) -> dict[str, list[dict[str, float]]]:
    """Return, by reward and step, the rank correlation of estimates with the finished pictures of a prompt.

    It is Spearman's, averaged over the prompts, with an interval over them.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for name, early in pool.early.items():
        found[name] = []
        for step in range(early.shape[2]):
            if np.isnan(early[:, :, step]).any():
                continue
            each = [spearman(early[p, :, step], pool.finals[p]) for p in range(len(early))]
            low, high = bootstrap(each, range(len(each)))
            found[name].append({"step": step, "rank": float(np.mean(each)), "low": low, "high": high})
    return found


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
    """Return by how much the area of a method exceeds that of best of n, with an interval over prompts."""

    def of(rows: np.ndarray) -> float:
        start = plain[rows].mean(0)[0]
        own = area(plain[rows], start, budgets)
        # Nothing to gain on these prompts: an area of nothing has no share.
        return (area(method[rows], start, budgets) - own) / own if own else np.nan

    dice = np.random.default_rng(0)
    count = len(plain)
    drawn = [of(dice.integers(count, size=count)) for _ in range(2000)]
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
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
