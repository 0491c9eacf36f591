"""Compare searches at equal budgets on some prompts: those that move noise run, the others are replayed."""

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
from diffusers_ext.sampling.ttsnap import cost, left
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.detect import verify

from ..pages.markdown import markdown
from .search_pool import Pool, pixels
from .search_replay import BRANCHES, affordable, plans, replay

MANY = 10_000  # more candidates than any budget pays for
CHECKED = 2  # prompts on which searches that only choose run for real, too
CHOOSING = {  # the reward that prunes, and the plan
    "best-of-n": (None, None),
    "ttsnap": ("shapes-clip", "plain"),
    "ttsnap, noise-aware": ("noise-aware", "aware"),
}
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
    """Run searches at each budget on the first `n` questions, and replay those that only choose in the pool.

    The first `CHECKED` of these run for real, too. Finished runs are kept.
    """
    rows, apart = [], {}
    for budget in budgets:
        plain: list[Run] = []
        for name, build in searches(early).items():

            def ran(i: int, name: str = name, build: Any = build, budget: int = budget) -> Run:
                return run(pipe, call, build(budget), asked[i], work / f"{name}-{budget}-{i}.json")

            if name in CHOOSING:
                found = [replayed(pool, name, budget, i) for i in range(n)]
                gaps = [abs(found[i].reward - ran(i).reward) for i in range(CHECKED)]
                apart[name] = max(*gaps, apart.get(name, 0.0))
            else:
                found = [ran(i) for i in range(n)]
            plain = plain or found
            rows.append({"search": name, "budget": budget, **summary(found, plain)})
    return {"prompts": n, "rows": rows, "checked": CHECKED, "apart": apart}


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


def replayed(pool: Pool, name: str, budget: int, prompt: int) -> Run:
    """Return what a search that only chooses would find, from the pool."""
    reward, kind = CHOOSING[name]
    steps = len(pool.levels)
    plan = plans(steps)[kind] if kind else {}
    n = affordable(budget, plan, steps)
    finals = pool.finals[prompt]
    early = pool.early[reward][prompt] if reward else finals[:, None]
    picked = replay(early, finals, np.arange(n), plan)
    looked = [left(n, plan, step - 1) for step in plan if left(n, plan, step) < left(n, plan, step - 1)]
    scored = sum(looked) + left(n, plan, steps)
    nfe = BRANCHES * cost(n, plan, steps)
    return Run(float(finals[picked]), bool(pool.right[prompt, picked]), nfe, scored, None)


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
