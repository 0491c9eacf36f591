"""Define the prompt suites that figures are measured on.

Choosing settings and reporting results never share a prompt.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np

from .captions import OBJECTS, RELATIONS, Object, Spec
from .motion import MOTIONS, MOVES, OPPOSITE, Actor, Script

SPLITS = ("train-like", "held-out", "tuning")


def suite(split: str, task: str, n: int, seed: int = 0) -> list[Spec | Script]:
    """Return `n` specs of a task in random order, the same for the same arguments.

    Specs repeat only after all of them have come. held-out: at least one object pair, relation triple or
    motion that training never names. train-like and tuning: none of them; a checksum of the caption sends a
    quarter to tuning.
    """
    if split not in SPLITS or task not in TASKS:
        raise ValueError(
            f"a suite needs a split of {SPLITS} and a task of {tuple(TASKS)}, "
            f"got {split!r} and {task!r}; pick from these"
        )
    count, build = TASKS[task]
    order = np.random.default_rng((seed, zlib.crc32(f"{split}/{task}".encode()))).permutation(count)
    chosen = []
    for index in order:
        spec = build(int(index))
        if spec is not None and split_of(spec) == split:
            chosen.append(spec)
            if len(chosen) == n:
                return chosen
    return [chosen[i % len(chosen)] for i in range(n)]


def split_of(spec: Spec | Script) -> str:
    """Return the one split that a spec belongs to."""
    if spec.held_out:
        return "held-out"
    return "tuning" if zlib.crc32(spec.caption.encode()) % 4 == 0 else "train-like"


def _several(count: int) -> Callable[[int], Spec | None]:
    def build(index: int) -> Spec | None:
        objects = tuple(_digits(index, count))
        return Spec(objects) if len(set(objects)) == count else None

    return build


def _digits(index: int, count: int) -> Iterator[Object]:
    for _ in range(count):
        index, digit = divmod(index, len(OBJECTS))
        yield OBJECTS[digit]


def _attributes(index: int) -> Spec | None:
    first, second = _digits(index, 2)
    spec = Spec((first, second)) if first != second else None
    return spec if spec is not None and spec.swapped else None


def _count(index: int) -> Spec:
    thing, more = divmod(index, 3)
    return Spec((OBJECTS[thing],) * (2 + more))


def _position(index: int) -> Spec | None:
    index, relation = divmod(index, len(RELATIONS))
    first, second = _digits(index, 2)
    return Spec((first, second), RELATIONS[relation]) if first != second else None


def _motion(index: int) -> Script:
    thing, motion = divmod(index, len(MOTIONS))
    return Script((Actor(OBJECTS[thing], MOTIONS[motion]),))


def _two_motion(index: int) -> Script | None:
    """Build a script of an object that moves past another, which rests or comes the other way."""
    index, kind = divmod(index, 2 * len(MOVES))
    first, second = _digits(index, 2)
    way = MOTIONS[kind % len(MOVES)]
    other = "" if kind < len(MOVES) else OPPOSITE[way]
    return Script((Actor(first, other), Actor(second, way))) if first != second else None


# task -> how many numbers to draw from and what a number means (None if it means nothing)
TASKS: dict[str, tuple[int, Callable[[int], Spec | Script | None]]] = {
    "single_object": (len(OBJECTS), _several(1)),
    "two_object": (len(OBJECTS) ** 2, _several(2)),
    "counting": (len(OBJECTS) * 3, _count),
    "color_attr": (len(OBJECTS) ** 2, _attributes),
    "position": (len(OBJECTS) ** 2 * len(RELATIONS), _position),
    "three_object": (len(OBJECTS) ** 3, _several(3)),
    "motion": (len(OBJECTS) * len(MOTIONS), _motion),
    "two_motion": (len(OBJECTS) ** 2 * 2 * len(MOVES), _two_motion),
}
VIDEO_TASKS = ("single_object", "two_object", "motion", "two_motion")
# GenEval's classes; `color_attr` has both colours and both shapes different
IMAGE_TASKS = tuple(task for task in TASKS if "motion" not in task)
