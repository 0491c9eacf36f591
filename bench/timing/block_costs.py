"""Fit the costs of blocks in `kernels/block_sparse/gains.py` to the committed times of a CPU.

    python -m bench.timing.block_costs

It prints the lines of the table `COSTS` for the back-ends of `bench/results/growth-cpu-*.json`. The time of
attention over that of dense attention is linear in the cost of a FULL block and in those of PARTIAL blocks of
each rule, so least squares of relative errors find them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusers_ext.kernels.block_sparse.gains import Costs
from diffusers_ext.kernels.plan.plan import PlanStats

from ..ledger import RESULTS
from . import growth

SMALLEST = 2304  # tokens; below, a call costs more than its blocks
RULES = tuple(f.name for f in fields(Costs) if f.name not in ("full", "gathers", "source"))


class Timed(NamedTuple):
    """A timed plan: its rule in lower case, its counts, and its time over that of dense attention."""

    rule: str
    stats: PlanStats
    share: float


def fit(timed: Iterable[Timed], gathers: float, source: str) -> Costs:
    """Fit costs to timed plans; a rule that was not timed costs as much as a FULL block, and none costs less.

    The time is that of all blocks as FULL ones, and for each rule what its checks add. Both are at least 0.
    """
    timed = list(timed)
    rules = [rule for rule in RULES if any(one.rule == rule for one in timed)]
    work = np.zeros((len(timed), 1 + len(rules)))
    for row, (rule, stats, share) in zip(work, timed, strict=True):
        row[0] = stats.cost / share
        row[1 + rules.index(rule)] = stats.cost * (1 - stats.full_share) / share
    full, *checks = _least_squares(work)
    found = {rule: float(f"{1 + more / full:.3g}") for rule, more in zip(rules, checks, strict=True)}
    return Costs(
        full=float(f"{full:.3g}"), **dict.fromkeys(RULES, 1.0) | found, gathers=gathers, source=source
    )


def _least_squares(work: np.ndarray) -> np.ndarray:
    """Return factors of the columns, none below 0, whose sums are closest to 1; the first is never 0."""
    best, least = np.zeros(work.shape[1]), np.inf
    for kept in product((False, True), repeat=work.shape[1] - 1):
        columns = np.array([True, *kept])
        found = np.zeros(work.shape[1])
        found[columns] = np.linalg.lstsq(work[:, columns], np.ones(len(work)), rcond=None)[0]
        error = float(np.sum((work @ found - 1) ** 2))
        if found.min() >= 0 and error < least:
            best, least = found, error
    return best


def timed_on_a_cpu(path: Path) -> dict[str, list[Timed]]:
    """Read the file of `bench.timing.growth`: timed plans by back-end."""
    found: dict[str, list[Timed]] = {}
    specs: dict[tuple[str, int], Any] = {}
    for row in json.loads(path.read_text())["rows"]:
        key = row["method"], row["tokens"]
        if key not in specs:
            specs[key] = growth.plan_spec(*key, growth.FRAMES[0])
        one = Timed(specs[key].kind.name.lower(), specs[key].stats, row["ms"] / row["dense_ms"])
        found.setdefault(row["backend"], []).append(one)
    return found


def line(backend: str, device: str, costs: Costs) -> str:
    """Return the line of `COSTS` for a back-end on a class of devices."""
    return f"    {backend, device}: Costs{astuple(costs)},".replace("'", '"')


def main() -> None:
    """Print the costs of the committed results."""
    for path in sorted(RESULTS.glob("growth-cpu-*.json")):
        for backend, timed in timed_on_a_cpu(path).items():
            large = [one for one in timed if one.stats.tokens >= SMALLEST]
            print(line(backend, "cpu", fit(large, 0, "as timed on a CPU")))


if __name__ == "__main__":
    main()
