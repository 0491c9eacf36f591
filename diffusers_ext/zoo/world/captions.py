"""Define the caption grammar: what a prompt may ask for, and which combinations training never sees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Any

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("one", "two", "three", "four")
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}

# Every word gets one token. The later words have no picture yet: they are fixed now so that a second model
# (motion, size, background) can share this tokenizer and its weights.
WORDS = (
    *("a", "an", ",", "and", "of", "left", "right", "above", "below"),
    *COLOURS,
    *SHAPES,
    *PLURALS.values(),
    *NUMBERS,
    *("small", "big", "plain", "striped", "dotted", "background", "on", "the", "while", "then"),
    *("moves", "moving", "up", "down", "grows", "shrinks", "appears"),
)


@dataclass(frozen=True, slots=True, order=True)
class Object:
    """An object is one coloured shape."""

    colour: str
    shape: str

    @property
    def held_out(self) -> bool:
        """Return whether training never draws this pair. That is one shape of each colour, 8 of 40 pairs."""
        return SHAPES.index(self.shape) == (3 * COLOURS.index(self.colour) + 1) % len(SHAPES)

    def __str__(self) -> str:
        return f"{'an' if self.colour[0] == 'o' else 'a'} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Spec:
    """A spec says what a prompt asks for: the objects and, for two different ones, their relation."""

    objects: tuple[Object, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        count, distinct = len(self.objects), len(set(self.objects))
        if not 1 <= count <= 4 or distinct not in (1, count) or (count == 4 and distinct == 4):
            names = ", ".join(str(o) for o in self.objects)
            raise ValueError(
                f"Spec needs one to three different objects or two to four equal ones, got [{names}]; "
                "write equal objects as a count such as 'two red circles'"
            )
        if self.relation is not None and (self.relation not in RELATIONS or (count, distinct) != (2, 2)):
            raise ValueError(
                f"Spec.relation needs two different objects and one of {RELATIONS}, "
                f"got {self.relation!r} with {count} objects; leave it None otherwise"
            )

    @property
    def task(self) -> str:
        """Return the task of this spec; captions of `color_attr` count as `two_object`."""
        if self.relation:
            return "position"
        if len(self.objects) > 1 and len(set(self.objects)) == 1:
            return "counting"
        return ("single_object", "two_object", "three_object")[len(self.objects) - 1]

    @property
    def caption(self) -> str:
        """Return the one sentence of the grammar for this spec."""
        first = self.objects[0]
        if self.task == "counting":
            return f"{NUMBERS[len(self.objects) - 1]} {first.colour} {PLURALS[first.shape]}"
        if self.relation:
            return f"{first} {self.relation} {self.objects[1]}"
        *head, last = map(str, self.objects)
        return f"{', '.join(head)} and {last}" if head else last

    @property
    def swapped(self) -> tuple[Object, Object] | None:
        """Return two objects with exchanged colours; `None` unless they differ in colour and in shape."""
        if len(self.objects) != 2:
            return None
        first, second = self.objects
        if first.colour == second.colour or first.shape == second.shape:
            return None
        return Object(second.colour, first.shape), Object(first.colour, second.shape)

    @property
    def held_out(self) -> bool:
        """Return whether training never names one of the objects or the relation triple."""
        return any(o.held_out for o in self.objects) or (
            self.relation is not None and held_out_triple(self.relation, *(o.shape for o in self.objects))
        )


def along_and_across(relation: str, dx: Any, dy: Any) -> tuple[Any, Any]:
    """Turn the way from the first object to the second, in px, into the direction of a relation."""
    ways = {"left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}
    return ways[relation]


def held_out_triple(relation: str, first: str, second: str) -> bool:
    """Return whether training never names this (relation, shape, shape) triple.

    That is a fifth of the triples. A triple and its mirror share one answer.
    """
    if relation in ("right of", "below"):
        first, second = second, first
    axis = 0 if relation in ("left of", "right of") else 1
    return (axis + 2 * SHAPES.index(first) + SHAPES.index(second)) % 5 == 0


OBJECTS = tuple(Object(c, s) for c, s in product(COLOURS, SHAPES))

_OBJECT = rf"(?:a|an) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_ONE_TO_THREE = re.compile(rf"{_OBJECT}(?:(?:, {_OBJECT})? and {_OBJECT})?")
_RELATION = re.compile(rf"{_OBJECT} ({'|'.join(RELATIONS)}) {_OBJECT}")
_COUNT = re.compile(rf"({'|'.join(NUMBERS[1:])}) ({'|'.join(COLOURS)}) ({'|'.join(PLURALS.values())})")


def parse(caption: str) -> Spec:
    """Return the spec of a caption; upper case, extra spaces and a final full stop are allowed."""
    text = re.sub(r"\s+", " ", caption.strip().lower().removesuffix(".")).replace(" ,", ",")
    if match := _COUNT.fullmatch(text):
        number, colour, plural = match.groups()
        shape = next(s for s, p in PLURALS.items() if p == plural)
        return Spec((Object(colour, shape),) * (NUMBERS.index(number) + 1))
    if match := _RELATION.fullmatch(text):
        c1, s1, relation, c2, s2 = match.groups()
        return Spec((Object(c1, s1), Object(c2, s2)), relation)
    if match := _ONE_TO_THREE.fullmatch(text):
        found = [g for g in match.groups() if g]
        return Spec(tuple(Object(c, s) for c, s in zip(found[::2], found[1::2], strict=True)))
    raise ValueError(
        f"the shapes world reads captions such as 'a red circle and a blue square', got {caption!r}; "
        f"use the colours {', '.join(COLOURS)} and the shapes {', '.join(SHAPES)}"
    )
