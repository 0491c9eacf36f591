"""Read at which steps of a call a search looks at its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..errors import MethodError


def check_places(name: str, places: Sequence[float]) -> None:
    """Raise `MethodError` unless these are shares of the steps below 1, or numbers of steps, in order."""
    shares = all(0 <= place < 1 for place in places)
    numbers = all(place >= 0 and place == int(place) for place in places)
    if not (shares or numbers) or any(a >= b for a, b in pairwise(places)):
        raise MethodError(
            f"{name} takes steps in rising order, as shares of all steps below 1 or as numbers from 0, got "
            f"{list(places)}; for example (0.35, 0.6)."
        )


def steps_at(name: str, places: Sequence[float], steps: int) -> list[int]:
    """Return the numbers, from 0, of the steps that `check_places` has passed, in a call of `steps`.

    A share is rounded to the nearest step. Raises `MethodError` unless they rise and come before the last
    step, at which the picture is finished.
    """
    shares = all(place < 1 for place in places)
    found = [round(place * steps) if shares else int(place) for place in places]
    if any(a >= b for a, b in pairwise([*found, steps - 1])):
        raise MethodError(
            f"{name} takes rising steps before the last one, and this call has steps 0 to {steps - 1}, got "
            f"{found}; give earlier ones, or take more steps."
        )
    return found
