"""Choose a method's settings on tuning prompts.

The best of many settings looks better than it is. So it can be compared with the plain model again, on tuning
prompts that had no part in the choice. Reported figures come from other suites.
"""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from .score import Judged, compare, summarise
from .suite import Question


def assignments(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """Turn `["scale=[1, 2]", "stop=[0.5]"]` into every combination of `key=value`.

    Raises `ValueError` for a text without a list.
    """
    axes = []
    for text in grid:
        key, _, raw = text.partition("=")
        try:
            values = json.loads(raw)
        except ValueError:
            values = None
        if not key or not isinstance(values, list) or not values:
            raise ValueError(
                f"--grid takes key=[value, ...] with JSON values, got {text!r}; for example scale=[1,2,4]"
            )
        axes.append([f"{key}={json.dumps(v)}" for v in values])
    return list(product(*axes))


def best(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the most accurate entry, the first one of equals; so a grid begins with the gentlest setting."""
    return max(tried, key=lambda t: t["overall"]["accuracy"])


def halves(asked: Sequence[Question], n: int) -> tuple[list[Question], list[Question]]:
    """Split questions into the first `n` of each task and the others."""
    first, others, count = [], [], Counter()
    for question in asked:
        (first if count[question.task] < n else others).append(question)
        count[question.task] += 1
    return first, others


def confirmation(n: int, plain: Sequence[Judged], judged: Sequence[Judged]) -> dict[str, Any]:
    """Compare on `n` prompts per task that had no part in the choice: accuracies and paired difference."""
    overall = {"plain": summarise(plain)["overall"], "overall": summarise(judged)["overall"]}
    return {"n": n, **overall, "paired": compare(plain, judged)["overall"]}
