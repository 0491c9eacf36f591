"""The prompt suites of the shapes world as lists of questions, fixed by a seed."""

from dataclasses import dataclass

from ..call import SEED_LIMIT
from ..zoo.suites import SPLITS, suite
from .generate import Item
from .score import TASKS


@dataclass(frozen=True, slots=True)
class Question:
    """One picture that is asked for."""

    task: str
    item: Item


def questions(name: str, n: int, seed: int = 0) -> list[Question]:
    """`n` questions for each task, task by task; the first ones stay the same when `n` grows.

    Raises `ValueError` for an unknown suite and for `n` outside 1..10000.
    """
    if name not in SPLITS:
        raise ValueError(f"unknown suite {name!r}; the suites are {', '.join(SPLITS)}")
    if not 1 <= n <= 10_000:
        raise ValueError(
            f"--n is the number of prompts per task, 1 to 10000, got {n}; 40 gives +-15 points a task"
        )
    found = []
    for t, task in enumerate(TASKS):
        for i, spec in enumerate(suite(name, task, n, seed)):
            # No noise comes twice, neither within a suite nor between suites of one seed.
            noise = ((seed * len(SPLITS) + SPLITS.index(name)) * len(TASKS) + t) * 10_000 + i
            found.append(Question(task, Item(spec.caption, noise % SEED_LIMIT)))
    return found
