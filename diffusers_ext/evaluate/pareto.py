"""Put the figures of samplers together: right pictures and mean reward against their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .cells import Variant
from .score import Judged, compare, summarise
from .statistics import mean
from .words import difference, percent, reward


def common(columns: Sequence[Sequence[Judged]]) -> list[list[Judged]]:
    """Return the verdicts of each column on the pictures that all columns have, in the order of the first."""
    by_item = [{(j.prompt, j.seed): j for j in column} for column in columns]
    shared = [item for item in by_item[0] if all(item in own for own in by_item)]
    return [[own[item] for item in shared] for own in by_item]


def figures(variants: Sequence[Variant], columns: Sequence[Sequence[Judged]]) -> dict[str, Any]:
    """Return plain data for `results.json`; the first column is plain, and the others are paired with it.

    All columns hold the same pictures in the same order.
    """
    plain, methods, pairs = columns[0], {}, {}
    for variant, judged in zip(variants, columns, strict=True):
        groups = [j.prompt for j in judged]
        methods[variant.label] = {
            "methods": variant.settings(),
            **summarise(judged),
            "cost": mean([j.cost for j in judged], groups),
            "reward": mean([j.reward for j in judged], groups),
            "seconds_per_image": sum(j.seconds for j in judged) / len(judged),
        }
        if judged is not plain:
            gains = [b.reward - a.reward for a, b in zip(plain, judged, strict=True)]
            pairs[variant.label] = {
                "against": variants[0].label,
                **compare(plain, judged),
                "reward": mean(gains, groups),
            }
    return {"methods": methods, "paired": pairs, "front": front(methods)}


def quality(facts: Mapping[str, Any]) -> float:
    """Return the share of right pictures of a column; without a ground truth its mean reward."""
    return facts["overall"]["accuracy"] if facts["overall"] else facts["reward"]["mean"]


def front(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the columns that no other beats in quality at the same cost or less, cheapest first."""
    order = sorted(methods, key=lambda label: (methods[label]["cost"]["mean"], -quality(methods[label])))
    found: list[str] = []
    for label in order:
        if not found or quality(methods[label]) > quality(methods[found[-1]]):
            found.append(label)
    return found


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Put the figures into words: a heading, and a row for each column."""
    out = [["", "evaluations", "right", f"minus {next(iter(results['methods']))}", "mean reward"]]
    for label, facts in results["methods"].items():
        pair = results["paired"].get(label)
        right = percent(facts["overall"]) if facts["overall"] else "no ground truth"
        gain = difference(pair["overall"]) if pair and pair["overall"] else ""
        out.append([label, f"{facts['cost']['mean']:.0f}", right, gain, reward(facts["reward"])])
    return out
