"""Say what became of every candidate of a search, as data and for the sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..sampling.result import Candidate, Iterate, Result
from .score import Judged, judge


@dataclass(frozen=True, slots=True)
class Fate:
    """Describe one candidate: lines that name it, and by step a picture `[H, W, 3]` and a score.

    `score` is that of the finished picture, and `verdict` says if it is right. `dropped` is the step after
    which the candidate was dropped. The `best` one is the result. Iterations are `ordered`: each follows from
    the one before.
    """

    lines: tuple[str, ...]
    pictures: dict[int, Any] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    score: float | None = None
    dropped: int | None = None
    verdict: bool | None = None
    reason: str = ""
    best: bool = False
    ordered: bool = False

    @property
    def rank(self) -> tuple[Any, ...]:
        """The place in the sheet: the best, then what was finished, then what was dropped last; by score."""
        last = self.score if self.score is not None else max(self.scores.items(), default=(0, -1e9))[1]
        ended = self.dropped if self.dropped is not None else 10**9 if self.score is not None else -1
        return (not self.best, -ended, -last)


def winner(result: Result) -> int:
    """Return the place in the history of the picture that a search of one prompt returned."""
    best = float(result.scores[0])
    scores = {i: tried.score for i, tried in enumerate(result.history) if _number(tried.score) is not None}
    return min(scores, key=lambda i: abs(scores[i] - best))


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


def fates(result: Result, judged: Sequence[Judged | None]) -> list[Fate]:
    """Return what became of each candidate, or of each iteration, in the order of the history."""
    best = winner(result)
    return [
        _fate(tried, verdict, i == best)
        for i, (tried, verdict) in enumerate(zip(result.history, judged, strict=True))
    ]


def _fate(tried: Candidate | Iterate, judged: Judged | None, best: bool) -> Fate:
    right = None if judged is None else judged.correct
    reason = "" if judged is None else judged.reason
    if isinstance(tried, Iterate):
        shown = {} if tried.picture is None else {tried.iteration: tried.picture}
        name = f"iteration {tried.iteration}"
        return Fate((name,), shown, {}, tried.score, None, right, reason, best, ordered=True)
    lines = [f"candidate {tried.place}"]
    if tried.origin is not None:
        lines.append(f"from candidate {tried.origin}")
    lines.append(f"{tried.evaluations} evaluations")
    return Fate(
        tuple(lines), tried.pictures, tried.estimates, tried.score, tried.dropped, right, reason, best
    )


def place(result: Result) -> str:
    """Name the picture that was kept, as `candidate 5 of 0 to 7`."""
    tried = result.history[winner(result)]
    alike = [t for t in result.history if type(t) is type(tried)]
    if isinstance(tried, Iterate):
        return f"iteration {tried.iteration} of 0 to {max(t.iteration for t in alike)}"
    return f"candidate {tried.place} of 0 to {max(t.place for t in alike)}"


def summary(label: str, result: Result, rewards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a search did in a sentence or two."""
    by = f" by {' + '.join(r['name'] for r in rewards)}" if rewards else ""
    iterates = sum(isinstance(tried, Iterate) for tried in result.history)
    counts = [_count(len(result.history) - iterates, "candidate"), _count(iterates, "iteration")]
    dropped = sum(getattr(tried, "dropped", None) is not None for tried in result.history)
    counts += [f"{dropped} dropped on the way"] * bool(dropped)
    spent = f"{result.nfe} evaluations"
    if result.gradients:
        spent += f", {result.gradients} of them also backwards, which makes a cost of {result.cost}"
    parts = [*filter(None, counts), spent, f"{result.seconds:.1f} s"]
    lines = [f"{label}{by}: {', '.join(parts)}"]
    return [*lines, f"the search ended since {result.stopped}"] if result.stopped else lines


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}" if count else ""


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
        {}
        if judged is None or judged.correct is None
        else {"correct": judged.correct, "reason": judged.reason}
    )
    each = {name: _number(score) for name, score in tried.each.items()}
    return {**own, "score": _number(tried.score), "each": each, **verdict}


def _number(value: float | None) -> float | None:
    """Return a number that JSON has; it has no NaN."""
    return value if value is not None and math.isfinite(value) else None
