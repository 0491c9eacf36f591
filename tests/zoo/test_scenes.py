import itertools
import math

import numpy as np
import pytest

from diffusers_ext.zoo.captions import OBJECTS, RELATIONS, Spec, held_out_triple
from diffusers_ext.zoo.scenes import EXTENT, GAP, SIZE, sample_scene, sample_spec


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
        "single_object": 0.3,
        "two_object": 0.175,
        "position": 0.175,
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
