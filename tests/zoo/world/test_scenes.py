import itertools
import math

import numpy as np
import pytest

from diffusers_ext.zoo.world.captions import OBJECTS, RELATIONS, SHAPES, Object, Spec, held_out_triple
from diffusers_ext.zoo.world.render import distance
from diffusers_ext.zoo.world.scenes import CROWDED, EXTENT, GAP, OVERLAP, SIZE, sample_scene, sample_spec

UNLIKE = (Object("red", "square"), Object("blue", "cross"), Object("green", "circle"))


def test_held_out_combinations_never_enter_the_training_stream():
    rng = np.random.default_rng(0)
    stream = [sample_spec(rng) for _ in range(5000)]
    assert not any(spec.held_out for spec in stream)
    assert {o for spec in stream for o in spec.objects} == {o for o in OBJECTS if not o.held_out}


def test_the_stream_keeps_its_shares():
    rng = np.random.default_rng(1)
    stream = [sample_spec(rng) for _ in range(4000)]
    shares = {task: np.mean([s.task == task for s in stream]) for task in {s.task for s in stream}}
    asked = {
        "single_object": 0.15,
        "two_object": 0.25,
        "position": 0.25,
        "three_object": 0.15,
        "counting": 0.2,
    }
    assert shares == pytest.approx(asked, abs=0.03)
    doubles = [s.objects for s in stream if s.task == "two_object"]
    assert np.mean([a.shape == b.shape for a, b in doubles]) > 0.2
    assert np.mean([a.colour == b.colour for a, b in doubles]) > 0.15


def test_each_trained_triple_comes():
    rng = np.random.default_rng(2)
    seen = {
        (s.relation, *(o.shape for o in s.objects))
        for s in (sample_spec(rng) for _ in range(12000))
        if s.relation
    }
    shapes = sorted({o.shape for o in OBJECTS})
    assert seen == {t for t in itertools.product(RELATIONS, shapes, shapes) if not held_out_triple(*t)}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_objects_stay_inside_and_apart(count):
    rng = np.random.default_rng(count)
    for _ in range(50):
        places = sample_scene(Spec((OBJECTS[0],) * count), rng).places
        assert all(EXTENT * r <= v <= SIZE - EXTENT * r for x, y, r in places for v in (x, y))
        for (x0, y0, r0), (x1, y1, r1) in itertools.combinations(places, 2):
            assert math.hypot(x0 - x1, y0 - y1) >= EXTENT * (r0 + r1) + GAP - 1e-9


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_named_axis_dominates(relation):
    rng = np.random.default_rng(3)
    for _ in range(50):
        (x0, y0, _), (x1, y1, _) = sample_scene(Spec(OBJECTS[:2], relation), rng).places
        along, across = (x1 - x0, y1 - y0) if relation in ("left of", "right of") else (y1 - y0, x1 - x0)
        along = -along if relation in ("right of", "below") else along
        assert along >= 2 * abs(across) and along > 10


def crowding(places):
    """Return pairs (lower, upper) of objects that are closer to each other than GAP."""
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(places)), 2)
        if math.dist(places[a][:2], places[b][:2]) < EXTENT * (places[a][2] + places[b][2]) + GAP - 1e-9
    ]


def hidden(lower, upper):
    """Return the share of an object (shape, x, y, radius) that another one on top of it hides."""
    at = (np.arange(4 * SIZE) + 0.5) / 4  # px
    masks = [distance(shape, at[None] - x, at[:, None] - y, r) < 0 for shape, x, y, r in (lower, upper)]
    return (masks[0] & masks[1]).sum() / masks[0].sum()


@pytest.mark.parametrize("count", [2, 3])
def test_crowded_scenes_come_in_their_share(count):
    rng = np.random.default_rng(4)
    crowded = [bool(crowding(sample_scene(Spec(UNLIKE[:count]), rng).places)) for _ in range(2000)]
    assert np.mean(crowded) == pytest.approx(CROWDED, abs=0.025)  # three standard errors


def test_named_relations_are_never_crowded():
    rng = np.random.default_rng(5)
    scenes = [sample_scene(Spec(UNLIKE[:2], relation), rng) for relation in RELATIONS for _ in range(50)]
    assert not any(crowding(scene.places) for scene in scenes)


def test_objects_of_one_colour_never_touch():
    rng = np.random.default_rng(6)
    spec = Spec((Object("red", "square"), Object("red", "cross"), Object("blue", "circle")))
    pairs = [pair for _ in range(2000) for pair in crowding(sample_scene(spec, rng).places)]
    assert len(pairs) > 100 and (0, 1) not in pairs


def test_the_deepest_overlap_hides_at_most_a_fifth():
    low, high = 8.0, 11.5  # px, the radii of two objects
    shares = []
    for (under, over), (r, s), angle in itertools.product(
        itertools.product(SHAPES, repeat=2),
        itertools.product((low, high), repeat=2),
        np.arange(0, 2 * np.pi, np.pi / 12),
    ):
        reach = EXTENT * (r + s) - OVERLAP * min(r, s)
        upper = over, SIZE / 2 + reach * np.cos(angle), SIZE / 2 + reach * np.sin(angle), s
        shares.append(hidden((under, SIZE / 2, SIZE / 2, r), upper))
    assert 0.125 < max(shares) <= 0.2


def test_hardly_any_object_is_hidden_by_more_than_an_eighth():
    rng, shares = np.random.default_rng(7), []
    for _ in range(1500):
        spec = sample_spec(rng)
        places = sample_scene(spec, rng).places
        seen = [(thing.shape, *place) for thing, place in zip(spec.objects, places, strict=True)]
        shares += [hidden(seen[a], seen[b]) for a, b in crowding(places)]
    assert len(shares) > 50 and max(shares) <= 0.2
    assert np.mean(np.array(shares) > 0.125) < 0.02 and max(shares) > 0.05
