"""Noun phrases by rules, on captions with a known answer."""

import pytest

from diffusers_ext.prompts.phrases import COLOURS, described_nouns, head_nouns, noun_phrases
from diffusers_ext.zoo.world.captions import OBJECTS, Spec


def words(prompt, places):
    return [prompt[a:b] for a, b in places]


@pytest.mark.parametrize(
    "prompt, phrases",
    [
        ("a red cat and a blue dog", ["a red cat", "a blue dog"]),
        ("A room with blue walls and a white sink.", ["A room", "blue walls", "a white sink"]),
        ("a black and white cat on the red sofa", ["a black and white cat", "the red sofa"]),
        ("two green pears, three old books", ["two green pears", "three old books"]),
        ("A brown purse is sitting on a green bench .", ["A brown purse", "a green bench"]),
        ("a tall man riding a brown horse", ["a tall man", "a brown horse"]),
        ("a flying kite beside a brick building", ["a flying kite", "a brick building"]),
        ("cats", []),
        ("red", []),
        ("a man's red T-shirt", ["a man's red T-shirt"]),
        ("", []),
        ("... and, of", []),
    ],
)
def test_phrases_of_captions(prompt, phrases):
    assert words(prompt, noun_phrases(prompt)) == phrases


def test_every_pair_of_objects_is_split_in_two():
    for first, second in zip(OBJECTS, OBJECTS[7:] + OBJECTS[:7], strict=True):
        for relation in (None, "left of", "above"):
            caption = Spec((first, second), relation).caption
            assert words(caption, noun_phrases(caption)) == [str(first), str(second)]
            assert words(caption, head_nouns(caption)) == [first.shape, second.shape]
            assert words(caption, described_nouns(caption)) == [
                f"{thing.colour} {thing.shape}" for thing in (first, second)
            ]


def test_head_nouns_are_no_colours_and_no_determiners():
    prompt = "a girl in red, two blue birds and cats"
    assert words(prompt, head_nouns(prompt)) == ["girl", "birds", "cats"]
    assert words(prompt, described_nouns(prompt)) == ["girl", "blue birds", "cats"]
    assert "red" in COLOURS
