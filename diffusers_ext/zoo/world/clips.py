"""Make clips of shapes world: from a script to the path of each object, and from paths to frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .captions import OBJECTS, Object
from .motion import MOTIONS, MOVES, OPPOSITE, Actor, Script
from .render import backdrop, paint, to_pixels
from .scenes import EXTENT, OVERLAP, Background, sample_background

FRAMES = 9
SIDE = 32  # px
GAP = 1.5  # px of background kept between two objects that do not cross
CROSSING_GAP = 2.0  # px between two crossing objects in the first and the last frame, along their way
APPEARS = (3, 6)  # first frame in which an object that appears is seen

# px; two objects are smaller
_RADII = {1: (5.5, 8.0), 2: (4.5, 5.6)}
_MOVING_RADII = {1: (5.0, 6.5), 2: (4.5, 5.4)}
_TRAVEL = (9.0, 15.0)  # px from the first frame to the last
_SMALL = (4.3, 5.3)  # px, the smaller end of growing and shrinking
_GROWTH = (1.5, 1.9)


@dataclass(frozen=True, slots=True)
class Path:
    """A path is the way of one actor.

    It holds (x, y, radius) in px in each frame [T, 3]. The actor is seen from frame `since` on.
    """

    actor: Actor
    places: np.ndarray
    since: int
    shade: float  # brightness factor


@dataclass(frozen=True, slots=True)
class Take:
    """A take is all that the renderer needs for one clip; a later path is drawn on top."""

    script: Script
    paths: tuple[Path, ...]
    background: Background


@dataclass(frozen=True, slots=True)
class ClipMix:
    """Hold the shares of each kind of script in the training stream."""

    single: float = 0.20
    motion: float = 0.45
    double: float = 0.15  # both at rest
    two_motion: float = 0.20
    one_moves: float = 0.45  # share of the last one: the other object rests
    crossing: float = 0.35  # share of it: two objects pass each other; the rest is any motion


STILLS = ClipMix(single=0.25, motion=0.0, double=0.75, two_motion=0.0)  # of the training stream of stills


def sample_script(rng: np.random.Generator, mix: ClipMix | None = None) -> Script:
    """Draw one script of the training stream; held-out pairs and motions never come."""
    mix = mix or ClipMix()
    u, v = rng.random(2)
    if u < mix.single + mix.motion:
        return Script((_actor(rng, MOTIONS if u >= mix.single else ("",)),))
    ways = tuple(f"moves {way}" for way in MOVES)
    if u < mix.single + mix.motion + mix.double:
        kinds: tuple[tuple[str, ...], tuple[str, ...]] = ("",), ("",)
    elif v < mix.one_moves:
        kinds = ("",), ways
    elif v < mix.one_moves + mix.crossing:
        way = ways[rng.integers(4)]
        kinds = (way,), (OPPOSITE[way],)
    else:
        kinds = MOTIONS, MOTIONS
    while True:
        first, second = (_actor(rng, kind) for kind in kinds)
        if first.object != second.object:
            return Script((first, second))


def sample_take(script: Script, rng: np.random.Generator) -> Take:
    """Draw paths at random. Two objects keep GAP px apart in every frame.

    Crossing objects of different colours may hide each other up to OVERLAP, the bound of still pictures.
    """
    count = len(script.actors)
    while True:
        paths = [_path(actor, count, rng) for actor in script.actors]
        if count == 1 or _clear(*paths, script.crossing):
            return Take(script, tuple(paths), sample_background(rng))


def render_clip(take: Take, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Render the first T = `frames` frames uint8 [T, 32, 32, 3] of a take.

    Also returns the coverage of its objects, float32 [T, 32, 32] in 0..1.
    """
    behind = backdrop(take.background, SIDE)
    images = np.repeat(behind[None], frames, 0)
    masks = np.zeros((frames, SIDE, SIDE), np.float32)
    for frame in range(frames):
        for path in take.paths:
            if frame >= path.since:
                place = tuple(path.places[frame].tolist())
                paint(images[frame], masks[frame], path.actor.object, place, path.shade)
    return to_pixels(images), masks


def draw_clip(script: Script, seed: int) -> np.ndarray:
    """Draw one random clip uint8 [T, 32, 32, 3] of a script."""
    return render_clip(sample_take(script, np.random.default_rng(seed)))[0]


def training_clip(seed: int, index: int, mix: ClipMix | None = None) -> tuple[Script, np.ndarray, np.ndarray]:
    """Make clip `index` of the endless training stream `seed`: its script, frames and object coverage."""
    rng = np.random.default_rng((seed, index))
    take = sample_take(sample_script(rng, mix), rng)
    return take.script, *render_clip(take)


def training_still(seed: int, index: int) -> tuple[Script, np.ndarray, np.ndarray]:
    """Make picture `index` of another endless stream: a script at rest, one frame, object coverage."""
    rng = np.random.default_rng((seed, 1, index))
    take = sample_take(sample_script(rng, STILLS), rng)
    return take.script, *render_clip(take, frames=1)


def _actor(rng: np.random.Generator, motions: tuple[str, ...]) -> Actor:
    while True:
        colour_and_shape: Object = OBJECTS[rng.integers(len(OBJECTS))]
        actor = Actor(colour_and_shape, motions[rng.integers(len(motions))])
        if not actor.held_out:
            return actor


def _path(actor: Actor, count: int, rng: np.random.Generator) -> Path:
    """Draw a straight way at constant speed, or a steady change of size, that stays in the frame."""
    way = MOVES.get(actor.motion.removeprefix("moves "), (0, 0))
    low, high = (_MOVING_RADII if any(way) else _RADII)[count]
    first = last = rng.uniform(low, high)
    if actor.motion in ("grows", "shrinks"):
        small = rng.uniform(*_SMALL)
        large = small * rng.uniform(*_GROWTH) * (1.0 if count == 1 else 0.9)
        first, last = (small, large) if actor.motion == "grows" else (large, small)
    edge = EXTENT * max(first, last) + 0.5
    room = SIDE - 2 * edge
    step = np.array(way) * rng.uniform(_TRAVEL[0], np.clip(room, *_TRAVEL))
    start = edge + np.maximum(-step, 0) + rng.random(2) * (room - np.abs(step))
    time = np.linspace(0, 1, FRAMES)[:, None]
    places = np.hstack([start + time * step, first + time * (last - first)])
    since = int(rng.integers(APPEARS[0], APPEARS[1] + 1)) if actor.motion == "appears" else 0
    return Path(actor, places, since, float(rng.uniform(0.92, 1.0)))


def _clear(first: Path, second: Path, crossing: bool) -> bool:
    """Return whether two paths leave both objects recognisable."""
    apart = np.hypot(*(first.places - second.places)[:, :2].T)
    radii = np.stack([first.places[:, 2], second.places[:, 2]])
    if not crossing:
        return bool((apart >= EXTENT * radii.sum(0) + GAP).all())
    axis = 0 if first.actor.motion in ("moves left", "moves right") else 1
    along = (second.places - first.places)[[0, -1], axis]
    sign = 1 if first.actor.motion in ("moves right", "moves down") else -1
    passed = along * (sign, -sign) >= radii.sum(0)[[0, -1]] + CROSSING_GAP
    alike = first.actor.object.colour == second.actor.object.colour
    slack = GAP if alike else -OVERLAP * radii.min(0)
    return bool(passed.all() and (apart >= EXTENT * radii.sum(0) + slack).all())
