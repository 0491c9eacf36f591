"""Run searches for real on some prompts, at equal budgets, and check replays of a pool against them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffusers_ext as dx
from diffusers_ext.evaluate.statistics import bootstrap
from diffusers_ext.evaluate.suite import Question
from diffusers_ext.outputs.files import write_json
from diffusers_ext.rewards.base import Reward
from diffusers_ext.sampling.sampler import Sampler
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.detect import verify

from ..pages.markdown import markdown
from .search_pool import Pool, pixels
from .search_replay import affordable, plans, replay

MANY = 10_000  # more candidates than any budget pays for
TASKS = 6
OFTEN = dict(start=3, every=3, stop=11)  # of the 15 steps of shapes-sd3


@dataclass(frozen=True, slots=True)
class Run:
    """What a search found for a prompt: its reward, whether the picture is right, and what it cost."""

    reward: float
    right: bool
    nfe: int
    scored: int
    seed: int | None


def searches(early: Mapping[str, Reward]) -> dict[str, Callable[[int], Sampler]]:
    """Return the searches by name, each a function of the budget."""
    base, aware = early["shapes-clip"], early["noise-aware"]
    return {
        "best-of-n": lambda b: dx.BestOfN(rewards=base, n=MANY, budget=b),
        "ttsnap": lambda b: dx.TTSnap(rewards=base, n=MANY, budget=b),
        "ttsnap, noise-aware": lambda b: dx.TTSnap(rewards=aware, n=MANY, budget=b),
        "zero-order": lambda b: dx.ZeroOrder(rewards=base, rounds=MANY, budget=b),
        "paths": lambda b: dx.Paths(rewards=base, n=MANY, budget=b),
        "fk-steering": lambda b: dx.FKSteering(rewards=base, n=MANY, budget=b, renoise=1.0, **OFTEN),
        "svdd": lambda b: dx.SVDD(rewards=base, children=MANY, budget=b),
    }


def real(
    pipe: Any,
    call: Mapping[str, Any],
    early: Mapping[str, Reward],
    pool: Pool,
    asked: Sequence[Question],
    budgets: Sequence[int],
    n: int,
    work: Path,
) -> dict[str, Any]:
    """Run each search at each budget on the first `n` prompts of each task; finished runs are kept."""
    asked = asked[: n * TASKS]
    rows = []
    for budget in budgets:
        plain: list[Run] = []
        for name, build in searches(early).items():
            found = [
                run(pipe, call, build(budget), q, work / f"{name}-{budget}-{i}.json")
                for i, q in enumerate(asked)
            ]
            plain = plain or found
            rows.append({"search": name, "budget": budget, **summary(found, plain)})
    return {"prompts": len(asked), "rows": rows, "replayed": replayed(pool, asked, budgets, work)}


def run(pipe: Any, call: Mapping[str, Any], sampler: Sampler, question: Question, path: Path) -> Run:
    """Return what a search finds for a question, from its file if it has run before."""
    if path.exists():
        return Run(**json.loads(path.read_text()))
    dice = torch.Generator().manual_seed(question.item.seed)
    result = sampler.sample(
        pipe, question.item.prompt, generator=dice, output_type="pt", progress=False, **call
    )
    right = verify(pixels(result.images[0]), parse(question.item.prompt)).correct
    found = Run(float(result.scores[0]), bool(right), result.nfe, result.scored, result.seeds[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(found))
    return found


def summary(found: Sequence[Run], plain: Sequence[Run]) -> dict[str, Any]:
    """Return means over prompts, and differences to best of n with their intervals."""
    values: dict[str, Any] = {
        "nfe": float(np.mean([r.nfe for r in found])),
        "scored": float(np.mean([r.scored for r in found])),
    }
    for key in ("reward", "right"):
        own = np.array([float(getattr(r, key)) for r in found])
        more = own - np.array([float(getattr(r, key)) for r in plain])
        low, high = bootstrap(more, range(len(more)))
        values[key] = {"mean": float(own.mean()), "more": float(more.mean()), "low": low, "high": high}
    return values


def replayed(pool: Pool, asked: Sequence[Question], budgets: Sequence[int], work: Path) -> dict[str, float]:
    """Return the largest difference in reward between replays of the pool and real runs."""
    apart: dict[str, float] = {}
    steps = len(pool.levels)
    kinds = {"best-of-n": (None, {}), "ttsnap": ("shapes-clip", plans(steps)["plain"])}
    kinds["ttsnap, noise-aware"] = ("noise-aware", plans(steps)["aware"])
    for name, (reward, plan) in kinds.items():
        gaps = []
        for budget in budgets:
            rows = np.arange(affordable(budget, plan, steps))
            for p in range(len(asked)):
                early = pool.early[reward][p] if reward else np.zeros((len(pool.finals[p]), 1))
                picked = pool.finals[p, replay(early, pool.finals[p], rows, plan)]
                found = json.loads((work / f"{name}-{budget}-{p}.json").read_text())
                gaps.append(abs(picked - found["reward"]))
        apart[name] = float(np.max(gaps))
    return apart


def table(found: Mapping[str, Any]) -> str:
    """Return a table of real runs."""
    rows = []
    for row in found["rows"]:
        cells = [
            "{mean:.3f} ({more:+.3f} [{low:+.3f}, {high:+.3f}])".format(**row[key])
            for key in ("reward", "right")
        ]
        rows.append([row["search"], str(row["budget"]), f"{row['nfe']:.0f}", f"{row['scored']:.0f}", *cells])
    heads = ["search", "budget", "evaluations", "scored", "reward (more than best of n)", "right (more)"]
    return markdown(heads, rows)
