"""List the questions of the prompt suites of shapes world, fixed by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..sampling.call import SEED_LIMIT
from ..sampling.items import Item
from ..zoo.world.suites import IMAGE_TASKS, SPLITS, TASKS, suite

# The place of a task numbers its noise, and committed results name that noise: new tasks go to the end.
_FIRST = ("single_object", "two_object", "three_object", "counting", "position")
_LATER = ("color_attr", "motion", "two_motion")
_MOST = 10_000  # prompts per task
_APART = 10**15  # between the numbers of the later tasks; the first five tasks are numbered without gaps


@dataclass(frozen=True, slots=True)
class Question:
    """A question asks for one picture."""

    task: str
    item: Item


def questions(name: str, n: int, seed: int = 0, tasks: Sequence[str] = IMAGE_TASKS) -> list[Question]:
    """Return `n` questions for each task, task by task. The first ones stay the same when `n` grows.

    Raises `ValueError` for an unknown suite or task and for `n` outside 1..10000.
    """
    if name not in SPLITS:
        raise ValueError(f"unknown suite {name!r}; the suites are {', '.join(SPLITS)}")
    if unknown := [t for t in tasks if t not in TASKS]:
        raise ValueError(f"unknown task {unknown[0]!r}; the tasks are {', '.join(TASKS)}")
    if not 1 <= n <= _MOST:
        raise ValueError(
            f"--n is the number of prompts per task, 1 to 10000, got {n}; 40 gives +-15 points a task"
        )
    found = []
    for task in sorted(tasks, key=(_FIRST + _LATER).index):
        start = noise(name, task, seed)
        for i, spec in enumerate(suite(name, task, n, seed)):
            found.append(Question(task, Item(spec.caption, (start + i) % SEED_LIMIT)))
    return found


def noise(name: str, task: str, seed: int) -> int:
    """Return the noise seed of a task's first picture. No seed comes twice in the suites of one `seed`."""
    place = seed * len(SPLITS) + SPLITS.index(name)
    if task in _FIRST:
        return (place * len(_FIRST) + _FIRST.index(task)) * _MOST
    return (_LATER.index(task) + 1) * _APART + place * _MOST
