import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.zoo.world.captions import (
    COLOURS,
    OBJECTS,
    RELATIONS,
    SHAPES,
    WORDS,
    Object,
    Spec,
    held_out_triple,
    parse,
)

objects = st.sampled_from(OBJECTS)


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(["list", "count", "relation"]))
    if kind == "count":
        return Spec((draw(objects),) * draw(st.integers(2, 4)))
    if kind == "relation":
        pair = draw(st.lists(objects, min_size=2, max_size=2, unique=True))
        return Spec(tuple(pair), draw(st.sampled_from(RELATIONS)))
    return Spec(tuple(draw(st.lists(objects, min_size=1, max_size=3, unique=True))))


@given(specs())
def test_captions_round_trip(spec):
    assert parse(spec.caption) == spec
    assert parse(f"  {spec.caption.upper()}. ") == spec
    assert all(word in WORDS for word in spec.caption.replace(",", " ,").split())


@pytest.mark.parametrize(
    "caption, task",
    [
        ("a red circle", "single_object"),
        ("an orange star", "single_object"),
        ("a red circle and a blue square", "two_object"),
        ("a red circle left of a blue square", "position"),
        ("three green stars", "counting"),
        ("a red circle, a blue square and a yellow star", "three_object"),
    ],
)
def test_examples_of_the_grammar(caption, task):
    spec = parse(caption)
    assert (spec.caption, spec.task) == (caption, task)


@pytest.mark.parametrize(
    "caption", ["", "a dog", "one red circle", "a red", "a red star, a red star and a red cross", "5 stars"]
)
def test_other_sentences_are_refused(caption):
    with pytest.raises(ValueError, match=r"captions such as|equal ones"):
        parse(caption)


def test_a_relation_needs_two_different_objects():
    red = Object("red", "circle")
    with pytest.raises(ValueError, match="needs two different objects"):
        Spec((red, red), "above")
    with pytest.raises(ValueError, match="one to three different"):
        Spec(())


def test_held_out_pairs_leave_every_colour_and_shape_well_covered():
    held = [o for o in OBJECTS if o.held_out]
    assert len(held) == 8
    assert {c: sum(o.colour == c for o in held) for c in COLOURS} == dict.fromkeys(COLOURS, 1)
    assert all(1 <= sum(o.shape == s for o in held) <= 2 for s in SHAPES)


def test_a_fifth_of_the_triples_is_held_out_together_with_its_mirror():
    mirror = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    triples = list(itertools.product(RELATIONS, SHAPES, SHAPES))
    assert sum(held_out_triple(*t) for t in triples) == len(triples) // 5
    assert all(held_out_triple(r, a, b) == held_out_triple(mirror[r], b, a) for r, a, b in triples)


def test_equal_objects_one_by_one_are_a_count():
    assert parse("a red circle and a red circle").caption == "two red circles"
