"""Make one mistake in a spec, for wrong captions and pictures that a reward must not prefer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from .captions import COLOURS, OBJECTS, RELATIONS, SHAPES, Object, Spec, along_and_across
from .scenes import Scene

KINDS = ("colour", "shape", "swap", "relation", "count", "objects")
_OFTEN = (1.0, 2.0, 3.0, 3.0, 2.0, 1.0)  # of the kinds, in training: those learned late come more often
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def mistakes(spec: Spec, kind: str) -> list[Spec]:
    """List every spec one mistake of that kind away; a picture of one is never a picture of the other.

    colour, shape: one object (all of a count) has another colour or shape. swap: two objects exchange their
    colours. relation: exchanged or another one. count: one more or one fewer of the same. objects: one
    different object more or fewer. The list is empty if a spec allows no mistake of the kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of mistake {kind!r}; the kinds are {', '.join(KINDS)}")
    counted = spec.task == "counting" or len(spec.objects) == 1
    if kind == "count":
        several = [n for n in (len(spec.objects) - 1, len(spec.objects) + 1) if 1 <= n <= 4]
        return [Spec(spec.objects[:1] * n) for n in several] if counted else []
    if kind == "relation":
        return list(_relations(spec)) if spec.relation else []
    if kind == "objects":
        return [] if spec.task == "counting" else list(_more_and_fewer(spec))
    truth = Counter(spec.objects)
    wrong = []
    values = {"colour": COLOURS, "shape": SHAPES}
    changed = _swapped(spec.objects) if kind == "swap" else _changed(spec.objects, kind, values[kind])
    for objects in changed:
        if len(set(objects)) == len(truth) and Counter(objects) != truth:
            wrong.append(replace(spec, objects=objects))
    return wrong


def sample_mistakes(spec: Spec, count: int, rng: np.random.Generator) -> list[Spec]:
    """Draw up to `count` different mistakes for training, of as many kinds as there are, none held out.

    The hard kinds tend to come first; the others are learned from the other captions of a batch. A held-out
    pair in a wrong caption would teach that the pair is always wrong.
    """
    found: list[Spec] = []
    # Without replacement, in proportion to the weights (Efraimidis and Spirakis 2006).
    kinds = [KINDS[i] for i in np.argsort(rng.exponential(size=len(KINDS)) / _OFTEN)]
    while kinds and len(found) < count:
        kind = kinds.pop(0)
        left = [m for m in mistakes(spec, kind) if not m.held_out and m not in found]
        if left:
            found.append(left[rng.integers(len(left))])
            kinds.append(kind)
    return found


def may_show(scene: Scene, asked: Spec) -> bool:
    """Return whether a picture of `scene` may pass for `asked`.

    The detector calls a relation true if the objects are farther apart along its axis than across it. Here
    half of that distance suffices: a relation must be clearly wrong to count as wrong.
    """
    if Counter(asked.objects) != Counter(scene.spec.objects):
        return False
    if asked.relation is None:
        return True
    places = dict(zip(scene.spec.objects, scene.places, strict=True))
    (x0, y0, _), (x1, y1, _) = (places[o] for o in asked.objects)
    dx, dy = x1 - x0, y1 - y0
    along, across = along_and_across(asked.relation, dx, dy)
    return along > 0.5 * abs(across)


def _changed(objects: tuple[Object, ...], name: str, values: tuple[str, ...]) -> Iterator[tuple[Object, ...]]:
    for thing in dict.fromkeys(objects):
        for value in values:
            yield tuple(replace(o, **{name: value}) if o == thing else o for o in objects)


def _swapped(objects: tuple[Object, ...]) -> Iterator[tuple[Object, ...]]:
    for a, b in combinations(range(len(objects)), 2):
        swapped = list(objects)
        swapped[a] = Object(objects[b].colour, objects[a].shape)
        swapped[b] = Object(objects[a].colour, objects[b].shape)
        yield tuple(swapped)


def _relations(spec: Spec) -> Iterator[Spec]:
    first, second = spec.objects
    for relation in RELATIONS:
        if relation != spec.relation:
            yield Spec((first, second), relation)
        if relation != _OPPOSITE[spec.relation]:
            yield Spec((second, first), relation)


def _more_and_fewer(spec: Spec) -> Iterator[Spec]:
    if len(spec.objects) > 1:
        for gone in spec.objects:
            yield Spec(tuple(o for o in spec.objects if o != gone))
    if len(spec.objects) < 3:
        for more in OBJECTS:
            if more not in spec.objects:
                yield Spec((*spec.objects, more))
