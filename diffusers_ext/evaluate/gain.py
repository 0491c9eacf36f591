"""Measure what a method gained, by the seconds of its pictures and of plain ones of the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ..session.sentences import sentences


def beside_plain(
    engagement: Mapping[str, Any], plain: Sequence[float], own: Sequence[float]
) -> dict[str, Any]:
    """Return the engagement of a report with what was gained, by the seconds of each picture of both runs.

    `measured` is the median of the plain pictures, divided by that of the others, and `measured_on` counts
    both. `pictures` of the engagement counts those that the session made. With one sparse method they give
    the time that dense attention would have taken in its modules, and so `ideal`, where the dense calls of
    the same run do not give it.
    """
    if not plain or not own:
        return dict(engagement)
    usual, ours = median(plain), median(own)
    found = dict(engagement) | {"measured": usual / ours, "measured_on": [len(plain), len(own)]}
    time, count = engagement["attention"], engagement.get("pictures")
    kept = [m["kept"] for m in engagement["methods"] if m["kept"] is not None]
    if (
        found["ideal"] is None
        and time
        and time["timed"]
        and count
        and len(kept) == len(engagement["methods"]) == 1
    ):
        others = ours - time["sparse"] / count
        if usual > others > 0:
            found["ideal"] = usual / (others + kept[0] * (usual - others))
    return found | {"sentences": sentences(found)}
