"""Say what became of every candidate of a search, as data and for the sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..sampling.result import Candidate, Iterate, Result
from .score import Judged, judge


def winner(result: Result) -> int:
    """Return the place in the history of the picture that a search of one prompt returned."""
    best = float(result.scores[0])
    found = [i for i, tried in enumerate(result.history) if tried.score == best]
    return found[0] if found else 0


def verdicts(result: Result, prompt: str) -> list[Judged | None]:
    """Return the verdict on each finished picture that was kept; `None` for the others."""
    from PIL import Image

    found: list[Judged | None] = []
    for tried in result.history:
        pixels = finished(tried)
        found.append(None if pixels is None else judge(Image.fromarray(pixels), prompt, 0))
    return found


def finished(tried: Candidate | Iterate) -> Any:
    """Return the finished picture `[H, W, 3]` of what was tried, if there is one and it was kept."""
    if isinstance(tried, Iterate):
        return tried.picture
    return tried.pictures[max(tried.pictures)] if tried.score is not None and tried.pictures else None


def facts(result: Result, judged: Sequence[Judged | None]) -> dict[str, Any]:
    """Return the costs of a search and all that it tried, as JSON data."""
    rows = [_row(tried, verdict) for tried, verdict in zip(result.history, judged, strict=True)]
    return {
        "score": _number(float(result.scores[0])),
        "each": {name: _number(float(scores[0])) for name, scores in result.each.items()},
        "winner": winner(result),
        "winner_seed": result.seeds[0],
        "evaluations": result.nfe,
        "gradients": result.gradients,
        "cost": result.cost,
        "scored": result.scored,
        "seconds": round(result.seconds, 3),
        "stopped": result.stopped,
        "candidates": rows,
    }


def _row(tried: Candidate | Iterate, judged: Judged | None) -> dict[str, Any]:
    if isinstance(tried, Iterate):
        own: dict[str, Any] = {"iteration": tried.iteration, "norm": _number(tried.norm)}
    else:
        own = {
            "place": tried.place,
            "seed": tried.seed,
            "origin": tried.origin,
            "estimates": {str(step): _number(s) for step, s in tried.estimates.items()},
            "dropped": tried.dropped,
            "evaluations": tried.evaluations,
        }
    verdict: Mapping[str, Any] = (
        {} if judged is None or judged.correct is None else {"correct": judged.correct, "reason": judged.reason}
    )
    each = {name: _number(score) for name, score in tried.each.items()}
    return {**own, "score": _number(tried.score), "each": each, **verdict}


def _number(value: float | None) -> float | None:
    """Return a number that JSON has; it has no NaN."""
    return value if value is not None and math.isfinite(value) else None
