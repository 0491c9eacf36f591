"""Turn a spec into a scene: the place and size of each object, and what is behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .captions import OBJECTS, RELATIONS, Object, Spec, along_and_across, held_out_triple

SIZE = 64  # px
GAP = 2.0  # px of background kept between two objects that do not overlap
OVERLAP = 0.8  # deepest overlap of two circles around objects, in radii of the smaller: hides at most a fifth
CROWDED = 0.15  # share of overlaps among the scenes that allow one; a later object is drawn on top
EXTENT = 1.1  # the farthest point of any shape, in radii
TEXTURES = ("plain", "gradient", "stripes", "dots", "noise")

# px, by number of objects: fewer objects may be larger
_RADII = {1: (9.0, 13.0), 2: (8.0, 11.5), 3: (7.0, 10.0), 4: (6.5, 9.0)}
_TRAIN_OBJECTS = tuple(o for o in OBJECTS if not o.held_out)


@dataclass(frozen=True, slots=True)
class Background:
    """A backdrop of low saturation.

    It is never almost black: on black, a picture with a small object hardly differs from a blank one in MSE.
    """

    texture: str
    rgb: tuple[float, float, float]  # 0..1
    contrast: float  # amplitude of the texture, 0..1
    angle: float  # radians
    period: float  # px
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene is all that the renderer needs: one (x, y, radius) in px per object, and the background."""

    spec: Spec
    places: tuple[tuple[float, float, float], ...]
    shades: tuple[float, ...]  # brightness factor of each object
    background: Background


@dataclass(frozen=True, slots=True)
class Mix:
    """Hold the shares of each kind of spec in the training stream."""

    single: float = 0.15
    double: float = 0.50
    triple: float = 0.15
    counting: float = 0.20
    related: float = 0.5  # share of the doubles that name a relation
    alike: float = 0.15  # share of the doubles forced to share their shape, and of those to share the colour


def sample_spec(rng: np.random.Generator, mix: Mix | None = None) -> Spec:
    """Draw one spec of the training stream; held-out pairs and triples never come."""
    mix = mix or Mix()
    u = rng.random()
    if u < mix.single:
        return Spec((_pick(rng),))
    if u < mix.single + mix.counting:
        return Spec((_pick(rng),) * int(rng.integers(2, 5)))
    if u < mix.single + mix.counting + mix.triple:
        return Spec(_distinct(rng, 3))
    related, alike = rng.random() < mix.related, rng.random()
    while True:
        first, second = _distinct(rng, 2)
        if alike < mix.alike:
            second = Object(second.colour, first.shape)
        elif alike < 2 * mix.alike:
            second = Object(first.colour, second.shape)
        if second.held_out or second == first:
            continue
        if not related:
            return Spec((first, second))
        relation = RELATIONS[rng.integers(4)]
        if not held_out_triple(relation, first.shape, second.shape):
            return Spec((first, second), relation)


def sample_scene(spec: Spec, rng: np.random.Generator) -> Scene:
    """Place the objects of `spec` at random, the named relation clear by a margin.

    Objects are at least GAP apart, except in CROWDED scenes: there at least one pair of different colours
    overlaps. Objects of one colour never touch, since nobody could count them.
    """
    count = len(spec.objects)
    low, high = _RADII[count]
    colours = [thing.colour for thing in spec.objects]
    crowded = spec.relation is None and len(set(colours)) > 1 and rng.random() < CROWDED
    while True:
        radius = rng.uniform(low, high, (32, count))
        edge = EXTENT * radius + 1.0
        x, y = (edge + rng.random((32, count)) * (SIZE - 2 * edge) for _ in range(2))
        good = _apart(x, y, radius) & _obeys(spec.relation, x, y, radius)
        if crowded:
            good = _apart(x, y, radius, colours) & ~good
        if good.any():
            i = good.argmax()
            places = tuple(zip(x[i].tolist(), y[i].tolist(), radius[i].tolist(), strict=True))
            return Scene(spec, places, tuple(rng.uniform(0.92, 1.0, count).tolist()), sample_background(rng))


def _pick(rng: np.random.Generator) -> Object:
    return _TRAIN_OBJECTS[rng.integers(len(_TRAIN_OBJECTS))]


def _distinct(rng: np.random.Generator, count: int) -> tuple[Object, ...]:
    return tuple(_TRAIN_OBJECTS[i] for i in rng.permutation(len(_TRAIN_OBJECTS))[:count])


def _apart(x: np.ndarray, y: np.ndarray, radius: np.ndarray, colours: list[str] | None = None) -> np.ndarray:
    """Return which candidates [K] keep all objects GAP apart; with `colours`, unlike pairs may overlap."""
    good = np.ones(len(x), bool)
    for a in range(x.shape[1]):
        for b in range(a):
            may_overlap = colours is not None and colours[a] != colours[b]
            slack = -OVERLAP * np.minimum(radius[:, a], radius[:, b]) if may_overlap else GAP
            reach = EXTENT * (radius[:, a] + radius[:, b]) + slack
            good &= (x[:, a] - x[:, b]) ** 2 + (y[:, a] - y[:, b]) ** 2 >= reach**2
    return good


def _obeys(relation: str | None, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return which candidates [K] show the relation: a gap along its axis, at most half as much across it."""
    if relation is None:
        return np.ones(len(x), bool)
    dx, dy = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]
    along, across = along_and_across(relation, dx, dy)
    return (along >= radius.sum(1) + GAP) & (np.abs(across) <= 0.5 * along)


def sample_background(rng: np.random.Generator) -> Background:
    """Draw a backdrop at random."""
    grey, tint = rng.uniform(0.35, 0.9), rng.uniform(-0.03, 0.03, 3)
    return Background(
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        rgb=tuple((grey + tint).tolist()),
        contrast=float(rng.uniform(0.02, 0.05)),
        angle=float(rng.uniform(0, np.pi)),
        period=float(rng.uniform(10, 20)),
        seed=int(rng.integers(2**31)),
    )
