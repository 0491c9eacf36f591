"""Format accuracies and differences in words; with too few pictures they are counts, not percentages."""

from collections.abc import Mapping
from typing import Any

FEWEST = 10  # pictures; with fewer, an interval is as wide as the scale, and a share would look like a result


def enough(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry rests on enough pictures for percentages and intervals to mean something."""
    return entry.get("n", FEWEST) >= FEWEST


def percent(entry: Mapping[str, Any]) -> str:
    """Write an accuracy and its 95 % interval, `58 % (32 to 81)`; `3 of 4` for fewer than ten pictures."""
    if not enough(entry):
        return _count(entry["accuracy"], entry["n"])
    return f"{100 * entry['accuracy']:.0f} % ({100 * entry['low']:.0f} to {100 * entry['high']:.0f})"


def right(entry: Mapping[str, Any], things: str = "") -> str:
    """Write `58 % (32 to 81) of 12 right`, or `3 of 4 right`; `things` go before the last word."""
    of = f" of {entry['n']}" if enough(entry) else ""
    return f"{percent(entry)}{of}{things and f' {things}'} right"


def narrow(entry: Mapping[str, Any] | None) -> str:
    """Write percent with the interval in few characters, `58 (32-81)`; nothing for no entry."""
    if not entry:
        return ""
    if not enough(entry):
        return _count(entry["accuracy"], entry["n"])
    return f"{100 * entry['accuracy']:.0f} ({100 * entry['low']:.0f}-{100 * entry['high']:.0f})"


def part(share: float, n: int) -> str:
    """Write a share of `n` pictures, `30 %` or `3 of 4`."""
    return f"{100 * share:.0f} %" if n >= FEWEST else _count(share, n)


def points(difference: float) -> str:
    """Write a difference of shares in points, `+8`, `-12` or `0`. Zero has no sign."""
    text = f"{100 * difference:+.0f}"
    return text if text.strip("+-0") else "0"


def change(entry: Mapping[str, Any]) -> str:
    """Write a paired difference in points and its interval, `+8 (-12 to +28)`."""
    return f"{points(entry['difference'])} ({points(entry['low'])} to {points(entry['high'])})"


def difference(entry: Mapping[str, Any]) -> str:
    """Write a paired difference, `+8 points (-12 to +28), 2 wins, 1 loss, p = 1`; few pairs as counts."""
    wins, losses = entry["wins"], entry["losses"]
    pairs = f"{wins} win{'s' * (wins != 1)}, {losses} loss{'es' * (losses != 1)}"
    if not enough(entry):
        return f"{pairs} of {entry['n']}"
    size, interval = change(entry).split(" ", 1)
    return f"{size} points {interval}, {pairs}, p = {entry['p']:.2g}"


def reward(entry: Mapping[str, Any]) -> str:
    """Write a mean reward with its interval, where that means something."""
    if not enough(entry):
        return f"{entry['mean']:.3f}"
    return f"{entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def _count(share: float, n: int) -> str:
    return f"{round(share * n)} of {n}"
