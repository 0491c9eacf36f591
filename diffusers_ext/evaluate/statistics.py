"""Compute the intervals of the package: of an accuracy, of a paired difference and of a mean over groups."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import binomtest

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy is a share of successes with its Wilson interval, all in 0..1."""

    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired difference `b - a` of accuracies on the same prompts and seeds.

    `p` is from McNemar's exact test, two-sided.
    """

    difference: float
    low: float
    high: float
    wins: int  # pairs in which b is right and a is wrong
    losses: int  # pairs in which a is right and b is wrong
    p: float
    n: int
    interval: str  # 'newcombe', or 'bootstrap over prompts' if a prompt comes more than once


def accuracy(right: Sequence[bool]) -> Accuracy:
    """Compute the accuracy of a list of verdicts; raises `ValueError` for an empty list."""
    n = len(right)
    if n == 0:
        raise ValueError("an accuracy needs at least one verdict, got none; ask for one prompt or more")
    k = int(np.count_nonzero(right))
    low, high = wilson(k, n)
    return Accuracy(k / n, low, high, n)


def wilson(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the Wilson score interval of `k` successes in `n` trials."""
    low, high = binomtest(k, n).proportion_ci(level, method="wilson")
    return float(low), float(high)


def paired(a: Sequence[bool], b: Sequence[bool], groups: Sequence[Hashable] | None = None) -> Paired:
    """Compare two lists of verdicts item by item.

    `groups` names the prompt of each item. Images of one prompt are not independent. So if a prompt comes
    more than once, the interval is a bootstrap over prompts. Otherwise it is Newcombe's, which has a width
    even if nothing differs. McNemar's `p` always treats items as independent.
    """
    if len(a) != len(b) or (groups is not None and len(groups) != len(a)):
        raise ValueError(
            f"a paired comparison needs lists of equal length, got {len(a)} and {len(b)}; pair them first"
        )
    if not len(a):
        raise ValueError("a paired comparison needs at least one item, got none; ask for one prompt or more")
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    wins, losses = int((second & ~first).sum()), int((first & ~second).sum())
    clustered = groups is not None and len(set(groups)) < len(a)
    if clustered and wins + losses:
        low, high = bootstrap(second.astype(float) - first.astype(float), groups)
    else:
        low, high = newcombe(int((first & second).sum()), losses, wins, int((~first & ~second).sum()))
    return Paired(
        difference=(wins - losses) / len(first),
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        p=mcnemar(wins, losses),
        n=len(first),
        interval="bootstrap over prompts" if clustered and wins + losses else "newcombe",
    )


def mcnemar(wins: int, losses: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test: the discordant pairs against a fair coin."""
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def newcombe(both: int, only_a: int, only_b: int, neither: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the interval of the paired difference `b - a`.

    Paper: Newcombe 1998 (Stat. Med. 17, 2635), method 10.
    """
    n = both + only_a + only_b + neither
    k1, k2 = both + only_b, both + only_a  # successes of b and of a
    p1, p2 = k1 / n, k2 / n
    (l1, u1), (l2, u2) = wilson(k1, n, level), wilson(k2, n, level)
    margins = k1 * (n - k1) * k2 * (n - k2)
    phi = 0.0
    if margins:
        cross = both * neither - only_a * only_b
        # The continuity correction applies to a positive association only and never turns it negative.
        phi = (max(cross - n / 2, 0) if cross > 0 else cross) / sqrt(margins)
    down = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    up = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    return p1 - p2 - sqrt(max(down, 0.0)), p1 - p2 + sqrt(max(up, 0.0))


def bootstrap(
    values: Sequence[float], groups: Sequence[Hashable], level: float = LEVEL, draws: int = 10_000
) -> tuple[float, float]:
    """Compute the percentile interval of the mean of `values` when groups are drawn with replacement.

    Draws are seeded, so the same values have the same interval.
    """
    index = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    where = np.array([index[g] for g in groups])
    sums = np.bincount(where, weights=np.asarray(values, float))
    sizes = np.bincount(where)
    picks = np.random.default_rng(0).integers(len(sums), size=(draws, len(sums)))
    means = sums[picks].sum(1) / sizes[picks].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean(values: Sequence[float], groups: Sequence[Hashable]) -> dict[str, float]:
    """Compute the mean of values with its bootstrap interval over groups, as a dictionary.

    The interval of equal values has no width, so use `share` for yes and no.
    """
    low, high = bootstrap(values, groups)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def share(values: Sequence[bool], groups: Sequence[Hashable]) -> dict[str, float]:
    """Compute a share with its interval over groups, as `mean` does.

    If all values are equal, a bootstrap sees no chance. The interval is then Wilson's of as many trials as
    there are groups.
    """
    found = mean(np.asarray(values, float), groups)
    if found["mean"] in (0.0, 1.0):
        n = len(set(groups))
        found["low"], found["high"] = wilson(n * int(found["mean"]), n)
    return found
