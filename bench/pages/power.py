"""Compute how many prompts and seeds McNemar's exact test needs to see a change of a given size."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np
from scipy.stats import binom, norm

from diffusers_ext.evaluate.statistics import LEVEL

from .markdown import markdown

TARGET = 0.8  # chance of detecting a real change
CHANGES = (0.03, 0.05, 0.10)
SHARES = (0.05, 0.10, 0.20, 0.30, 0.50)
SEEDS = (1, 2, 4, 8)
LIKENESS = (0.0, 0.2, 0.5)


def power(n: int, change: float, discordant: float, level: float = LEVEL) -> float:
    """Return the chance that McNemar's exact two-sided test sees `change` in `n` pairs.

    It is exact for independent pairs. `discordant` is the share of pairs in which just one side is right.
    Their number is binomial, and so is the number of wins among them.
    """
    _check(change, discordant)
    reach = 8 * sqrt(n * discordant) + 8  # the chance beyond it is less than the rounding of a float
    m = np.arange(max(int(n * discordant - reach), 0), min(int(n * discordant + reach), n) + 1)
    win = (discordant + abs(change)) / (2 * discordant)
    # Up to `most` losses of m reject: ppf gives the first count beyond the tail, or the last one inside.
    most = binom.ppf((1 - level) / 2, m, 0.5)
    most -= binom.cdf(most, m, 0.5) > (1 - level) / 2
    seen = binom.cdf(most, m, 1 - win) + binom.sf(m - most - 1, m, 1 - win)
    return float(binom.pmf(m, n, discordant) @ seen)


def pairs(change: float, discordant: float, target: float = TARGET, level: float = LEVEL) -> int:
    """Return the fewest independent pairs, up to the saw teeth of an exact test, at which `power` reaches
    `target`.
    """
    _check(change, discordant)
    za, zb = norm.ppf((1 + level) / 2), norm.ppf(target)
    guess = (za * sqrt(discordant) + zb * sqrt(discordant - change**2)) ** 2 / change**2
    low, high = 0, 2 * ceil(guess) + 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, change, discordant, level) >= target else (middle, high)
    return high


def prompts(change: float, discordant: float, seeds: int, alike: float) -> int:
    """Return the prompts needed when each is drawn with several seeds.

    `alike` is the correlation of the differences of two seeds of one prompt: 0 if seeds are as good as
    prompts, 1 if they teach nothing. The pairs grow by Kish's design effect, 1 + (seeds - 1) alike.
    """
    if seeds < 1 or not 0 <= alike <= 1:
        raise ValueError(
            f"a prompt has one seed or more, alike by 0 to 1, got {seeds} seeds alike by {alike}; "
            "take 1 seed if nothing is known"
        )
    return ceil(pairs(change, discordant) * (1 + (seeds - 1) * alike) / seeds)


def pairs_table() -> str:
    """Return Markdown: pairs needed by change and by share of differing pairs."""
    heads = ["pairs that differ", *(f"{100 * c:.0f} points" for c in CHANGES)]
    cells = [
        [f"{100 * share:.0f} %", *(str(pairs(c, share)) if c <= share else "-" for c in CHANGES)]
        for share in SHARES
    ]
    return markdown(heads, cells)


def prompts_table(change: float = 0.03, discordant: float = 0.2) -> str:
    """Return Markdown: prompts needed by seeds per prompt and by likeness of the seeds."""
    heads = ["seeds a prompt", *(f"alike by {a:g}" for a in LIKENESS)]
    return markdown(
        heads, [[str(s), *(str(prompts(change, discordant, s, a)) for a in LIKENESS)] for s in SEEDS]
    )


def _check(change: float, discordant: float) -> None:
    if not 0 < abs(change) <= discordant <= 1:
        raise ValueError(
            f"the share of differing pairs must lie between the change and 1, got change {change} and share "
            f"{discordant}; take the share from an earlier paired result"
        )
