"""Define the caption grammar of clips: one or two objects, each at rest or in motion."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .captions import COLOURS, SHAPES, Object

MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # (x right, y down)
MOTIONS = (*(f"moves {way}" for way in MOVES), "grows", "shrinks", "appears")
OPPOSITE = {"moves left": "moves right", "moves up": "moves down"}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}


@dataclass(frozen=True, slots=True, order=True)
class Actor:
    """An actor is one object and its motion from the first frame to the last; "" means that it rests."""

    object: Object
    motion: str = ""

    def __post_init__(self) -> None:
        if self.motion not in ("", *MOTIONS):
            raise ValueError(f"Actor.motion is one of {MOTIONS} or '' for rest, got {self.motion!r}")

    @property
    def held_out(self) -> bool:
        """Return whether training never draws this object, or this shape in this motion (1 of 5 shapes)."""
        return self.object.held_out or (self.motion != "" and held_out_motion(self.motion, self.object.shape))

    def __str__(self) -> str:
        return f"{self.object} {self.motion}".rstrip()


@dataclass(frozen=True, slots=True)
class Script:
    """A script says what a clip is asked to show. If one of two actors rests, it comes first."""

    actors: tuple[Actor, ...]

    def __post_init__(self) -> None:
        objects = [a.object for a in self.actors]
        resting = [a.motion == "" for a in self.actors]
        if not 1 <= len(objects) <= 2 or len(set(objects)) != len(objects):
            raise ValueError(
                f"a Script needs one actor or two with different objects, got {list(map(str, self.actors))}; "
                "change a colour or a shape"
            )
        if resting == [False, True] or (resting == [True, False] and not _moves(self.actors[1])):
            raise ValueError(
                "beside an object at rest, which comes first, the other one moves left, right, up or down; "
                f"got {list(map(str, self.actors))}; let both be in motion or swap them"
            )

    @property
    def task(self) -> str:
        """Return the suite's task, from the number of objects and whether anything is in motion."""
        if not any(a.motion for a in self.actors):
            return ("single_object", "two_object")[len(self.actors) - 1]
        return ("motion", "two_motion")[len(self.actors) - 1]

    @property
    def crossing(self) -> bool:
        """Return whether two objects pass each other."""
        first, last = self.actors[0], self.actors[-1]
        return OPPOSITE.get(first.motion) == last.motion != ""

    @property
    def caption(self) -> str:
        """Return the one sentence of the grammar for this script."""
        first, last = self.actors[0], self.actors[-1]
        if len(self.actors) == 1:
            return str(first)
        if first.motion:
            return f"{first} while {last}"
        return f"{first} and {last}".replace(" moves ", " moving ")

    @property
    def held_out(self) -> bool:
        """Return whether training never draws one of the actors."""
        return any(a.held_out for a in self.actors)


def held_out_motion(motion: str, shape: str) -> bool:
    """Return whether training never shows this shape in this motion. That is one shape for each motion."""
    return SHAPES.index(shape) == (2 * MOTIONS.index(motion) + 3) % len(SHAPES)


def _moves(actor: Actor) -> bool:
    return actor.motion.startswith("moves ")


_OBJECT = rf"(?:a|an) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_MOTION = rf"({'|'.join(MOTIONS)})"
_ONE = re.compile(rf"{_OBJECT}(?: {_MOTION})?")
_BOTH = re.compile(rf"{_OBJECT} {_MOTION} while {_OBJECT} {_MOTION}")
_FIRST_RESTS = re.compile(rf"{_OBJECT} and {_OBJECT}(?: moving ({'|'.join(MOVES)}))?")


def parse(caption: str) -> Script:
    """Return the script of a caption; upper case, extra spaces and a final full stop are allowed."""
    text = re.sub(r"\s+", " ", caption.strip().lower().removesuffix("."))
    if match := _ONE.fullmatch(text):
        colour, shape, motion = match.groups()
        return Script((Actor(Object(colour, shape), motion or ""),))
    if match := _BOTH.fullmatch(text):
        c1, s1, m1, c2, s2, m2 = match.groups()
        return Script((Actor(Object(c1, s1), m1), Actor(Object(c2, s2), m2)))
    if match := _FIRST_RESTS.fullmatch(text):
        c1, s1, c2, s2, way = match.groups()
        return Script((Actor(Object(c1, s1)), Actor(Object(c2, s2), f"moves {way}" if way else "")))
    raise ValueError(
        "clips of the shapes world read captions such as 'a red circle moves left', 'a red circle moves left "
        f"while a blue square grows' or 'a blue square and a red circle moving up', got {caption!r}; use the "
        f"colours {', '.join(COLOURS)}, the shapes {', '.join(SHAPES)} and the motions {', '.join(MOTIONS)}"
    )
