"""Give ground-truth verdicts on clips: detect objects in each frame and link them to tracks."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from .captions import Object
from .clips import SIDE
from .detect import Found, detect
from .motion import MOVES, Script
from .scenes import SIZE

_ENLARGE = SIZE // SIDE  # the detector works at the size of still pictures
_REACH = 7.0  # px between an object and its last place, at most; the fastest goes 1.9 px a frame
_OTHER_COLOUR = 4.0  # px that a change of colour adds when frames are linked
_SEEN = 1 / 3  # share of the frames below which a track is a flicker; the latest object to appear has a third
_MOVED = 4.5  # px between first and last place; half the shortest motion of the world
_GROWN = 1.22  # factor of the radius; in the world it is 1.35 and more, or 1
_LATE = 2  # frame; an object first seen here or later has appeared
UNCLEAR = "moves oddly"


@dataclass(frozen=True, slots=True)
class Track:
    """A track follows one object through a clip.

    `frames` are the frames in which it was seen, and `found` is what the detector found there.
    """

    frames: tuple[int, ...]
    found: tuple[Found, ...]

    @property
    def object(self) -> Object:
        """Return the most frequent colour and shape of the track; well-fitting shapes count more."""
        colour = Counter(f.colour for f in self.found).most_common(1)[0][0]
        shapes: dict[str, float] = defaultdict(float)
        for f in self.found:
            shapes[f.shape] += f.overlap
        return Object(colour, max(shapes, key=lambda s: shapes[s]))

    def motion(self, length: int) -> str:
        """Return one of `motion.MOTIONS`, "" for rest, or "moves oddly" for any other motion."""
        fitted = np.array([_ends(self.frames, [v(f) for f in self.found]) for v in _MEASURES])
        (x0, x1), (y0, y1), (r0, r1) = fitted
        dx, dy, growth = x1 - x0, y1 - y0, max(r1, 0.1) / max(r0, 0.1)
        moved = max(abs(dx), abs(dy)) >= _MOVED
        grown = "grows" if growth >= _GROWN else "shrinks" if growth <= 1 / _GROWN else ""
        kinds = [bool(moved), bool(grown), self.frames[0] >= _LATE]
        if self.frames[-1] < length - 2 or sum(kinds) > 1 or min(abs(dx), abs(dy)) >= _MOVED:
            return UNCLEAR
        if moved:
            way = int(np.sign(dx)) * (abs(dx) > abs(dy)), int(np.sign(dy)) * (abs(dy) >= abs(dx))
            return f"moves {next(name for name, step in MOVES.items() if step == way)}"
        return "appears" if kinds[2] else grown

    def __str__(self) -> str:
        return str(self.object)


@dataclass(frozen=True, slots=True)
class ClipVerdict:
    """A verdict says whether a clip shows exactly what was asked, what was seen, and why.

    `swapped` marks a failure of binding: both objects are there with their colours exchanged.
    """

    correct: bool
    tracks: tuple[Track, ...]
    reason: str
    swapped: bool = False


def observe(clip: np.ndarray) -> tuple[tuple[Found, ...], ...]:
    """Find the objects in each frame of a clip [T, 32, 32, 3], uint8 or float in 0..1.

    Centres and areas are in px of the clip.
    """
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(
            f"the judge of clips needs frames [T, {SIDE}, {SIDE}, 3], got shape {clip.shape}; "
            "use detect.detect for still pictures"
        )
    if clip.dtype != np.uint8:
        clip = (np.clip(clip, 0, 1) * 255 + 0.5).astype(np.uint8)
    return tuple(_frame(frame) for frame in clip)


def follow(seen: tuple[tuple[Found, ...], ...]) -> tuple[Track, ...]:
    """Link what was seen in each frame to tracks, the longest first; flickers are left out."""
    tracks: list[tuple[list[int], list[Found]]] = []
    for frame, objects in enumerate(seen):
        cost = np.array([[_cost(frame, t, f) for f in objects] for t in tracks]).reshape(
            len(tracks), len(objects)
        )
        rows, columns = linear_sum_assignment(cost)
        linked = {c: r for r, c in zip(rows, columns, strict=True) if cost[r, c] <= _REACH}
        for i, found in enumerate(objects):
            if i in linked:
                frames, things = tracks[linked[i]]
                frames.append(frame)
                things.append(found)
            else:
                tracks.append(([frame], [found]))
    lasting = [Track(tuple(t), tuple(f)) for t, f in tracks if len(t) >= _SEEN * len(seen)]
    return tuple(sorted(lasting, key=lambda t: -len(t.frames)))


def verify_clip(clip: np.ndarray, script: Script) -> ClipVerdict:
    """Compare a clip with a script: the same objects, no more and no fewer, each in its motion."""
    tracks = follow(observe(clip))
    seen = [(t.object, t.motion(len(clip))) for t in tracks]
    shown = " and ".join(sorted(f"{thing} {motion or 'at rest'}" for thing, motion in seen)) or "nothing"
    if Counter(seen) == Counter((a.object, a.motion) for a in script.actors):
        return ClipVerdict(True, tracks, f"found {shown}")
    things, wanted = Counter(thing for thing, _ in seen), Counter(a.object for a in script.actors)
    if things == wanted:
        return ClipVerdict(False, tracks, f"the objects are right, their motion is not: found {shown}")
    return ClipVerdict(False, tracks, f"found {shown}", swapped=_exchanged(wanted) == things)


def _exchanged(objects: Counter[Object]) -> Counter[Object] | None:
    """Return two objects with their colours exchanged."""
    if len(objects) != 2:
        return None
    first, second = objects
    return Counter([Object(second.colour, first.shape), Object(first.colour, second.shape)])


def _frame(frame: np.ndarray) -> tuple[Found, ...]:
    large = Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    scaled = []
    for f in detect(np.asarray(large)):
        x, y = f.centre
        centre = x / _ENLARGE, y / _ENLARGE
        scaled.append(Found(f.shape, f.colour, centre, round(f.area / _ENLARGE**2), f.overlap))
    return tuple(scaled)


def _cost(frame: int, track: tuple[list[int], list[Found]], found: Found) -> float:
    """Return the distance in px between the expected place of a track and a found object.

    A change of colour adds to it. The place is extrapolated from the last two sightings, so that crossing
    objects keep their identity.
    """
    frames, things = track
    x, y = things[-1].centre
    if len(frames) > 1:
        ahead = (frame - frames[-1]) / (frames[-1] - frames[-2])
        x += (x - things[-2].centre[0]) * ahead
        y += (y - things[-2].centre[1]) * ahead
    distance = float(np.hypot(found.centre[0] - x, found.centre[1] - y))
    return distance + _OTHER_COLOUR * (found.colour != things[-1].colour)


_MEASURES = (lambda f: f.centre[0], lambda f: f.centre[1], lambda f: f.area**0.5)


def _ends(frames: tuple[int, ...], values: list[float]) -> tuple[float, float]:
    """Return first and last value of a straight line fitted to (frame, value), less noisy than the values."""
    if len(frames) < 2:
        return values[0], values[0]
    slope, offset = np.polyfit(frames, values, 1)
    return slope * frames[0] + offset, slope * frames[-1] + offset
