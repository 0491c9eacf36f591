from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.zoo.world.captions import COLOURS, RELATIONS, SHAPES, Object, Spec, parse
from diffusers_ext.zoo.world.detect import verify
from diffusers_ext.zoo.world.mistakes import KINDS, may_show, mistakes, sample_mistakes
from diffusers_ext.zoo.world.render import render
from diffusers_ext.zoo.world.scenes import sample_scene, sample_spec

RED_CIRCLE, BLUE_SQUARE, GREEN_STAR = (
    Object("red", "circle"),
    Object("blue", "square"),
    Object("green", "star"),
)

objects = st.builds(Object, st.sampled_from(COLOURS), st.sampled_from(SHAPES))
specs = st.one_of(
    st.builds(lambda o, n: Spec((o,) * n), objects, st.integers(1, 4)),
    st.lists(objects, min_size=2, max_size=3, unique=True).map(lambda o: Spec(tuple(o))),
    st.builds(
        lambda o, r: Spec(tuple(o), r),
        st.lists(objects, min_size=2, max_size=2, unique=True),
        st.sampled_from(RELATIONS),
    ),
)


@given(specs, st.sampled_from(KINDS), st.integers(0, 2**31))
def test_a_mistake_is_never_true_of_the_picture(spec, kind, seed):
    """It is true neither by our own rule nor, both ways round, by the detector's rule about centres."""
    rng = np.random.default_rng(seed)
    for wrong in mistakes(spec, kind):
        assert parse(wrong.caption) == wrong
        assert not may_show(sample_scene(spec, rng), wrong)
        assert not may_show(sample_scene(wrong, rng), spec)


@given(specs, st.integers(0, 5), st.integers(0, 2**31))
def test_training_mistakes_are_different_and_never_held_out(spec, count, seed):
    found = sample_mistakes(spec, count, np.random.default_rng(seed))
    assert len(set(found)) == len(found) <= count
    assert not any(m.held_out for m in found)
    assert all(any(m in mistakes(spec, kind) for kind in KINDS) for m in found)
    if not spec.held_out:
        assert len(found) == count


def test_the_detector_agrees_with_the_mistakes():
    rng = np.random.default_rng(3)
    for _ in range(60):
        spec = sample_spec(rng)
        image, _ = render(sample_scene(spec, rng))
        assert verify(image, spec).correct
        assert not any(verify(image, wrong).correct for wrong in sample_mistakes(spec, 4, rng))


def test_what_each_kind_changes():
    two = Spec((RED_CIRCLE, BLUE_SQUARE))
    swapped = Spec((Object("blue", "circle"), Object("red", "square")))
    assert mistakes(two, "swap") == [swapped]
    assert len(mistakes(two, "colour")) == 2 * 7
    assert len(mistakes(two, "shape")) == 2 * 4
    assert {s.task for s in mistakes(two, "objects")} == {"single_object", "three_object"}
    assert not mistakes(two, "relation") and not mistakes(two, "count")
    near = replace(two, relation="left of")
    assert near not in mistakes(near, "relation")
    assert Spec((BLUE_SQUARE, RED_CIRCLE), "right of") not in mistakes(near, "relation")  # says the same
    assert Spec((BLUE_SQUARE, RED_CIRCLE), "left of") in mistakes(near, "relation")
    assert replace(swapped, relation="left of") in mistakes(near, "swap")


@pytest.mark.parametrize(("count", "others"), [(1, [2]), (2, [1, 3]), (3, [2, 4]), (4, [3])])
def test_counts_are_off_by_one(count, others):
    assert [len(s.objects) for s in mistakes(Spec((RED_CIRCLE,) * count), "count")] == others


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="unknown kind of mistake 'size'; the kinds are colour"):
        mistakes(Spec((RED_CIRCLE,)), "size")


def test_true_captions_are_known_as_such():
    scene = sample_scene(Spec((RED_CIRCLE, BLUE_SQUARE), "left of"), np.random.default_rng(0))
    assert may_show(scene, Spec((BLUE_SQUARE, RED_CIRCLE)))
    assert may_show(scene, Spec((BLUE_SQUARE, RED_CIRCLE), "right of"))
    assert not may_show(scene, Spec((RED_CIRCLE, BLUE_SQUARE), "above"))
    assert not may_show(scene, Spec((RED_CIRCLE, GREEN_STAR)))


def test_a_relation_on_the_diagonal_is_not_called_wrong():
    scene = sample_scene(Spec((RED_CIRCLE, BLUE_SQUARE)), np.random.default_rng(0))
    scene = replace(scene, places=((20.0, 20.0, 8.0), (44.0, 40.0, 8.0)))
    assert may_show(scene, Spec((RED_CIRCLE, BLUE_SQUARE), "left of"))
    assert may_show(scene, Spec((RED_CIRCLE, BLUE_SQUARE), "above"))
    assert not may_show(scene, Spec((RED_CIRCLE, BLUE_SQUARE), "below"))
