"""Subjects of a story, and which of them a scene names."""

import pytest

import diffusers_ext as dx
from diffusers_ext.pipelines.story_text import StoryScene, checked, read, words

TWO = {"ann": "a red circle", "ben": "the blue star"}


@pytest.mark.parametrize(
    "scene, prompt, held",
    [
        ("Ann and ben", "a red circle and the blue star", ["ann", "ben"]),
        ("ben", "the blue star", ["ben"]),
        ("a RED  circle above a blue star", "a RED circle above a blue star", ["ann", "ben"]),
        ("a red circle, ann-like, and joann", "a red circle, ann-like, and joann", ["ann"]),
        ("two red circles", "two red circles", []),
        ("a green square", "a green square", []),
    ],
)
def test_names_stand_for_texts_and_texts_are_found(scene, prompt, held):
    found = read(scene, checked(TWO))
    assert (found.prompt, list(found.subjects)) == (prompt, held)
    assert all(said == words(TWO[name]) for name, said in found.subjects.items())


def test_a_scene_may_say_its_words():
    scene = StoryScene("the circle runs", {"ann": "circle"})
    assert read(scene, TWO) == scene
    for subjects, said in (({"carl": "circle"}, "got 'carl'"), ({"ann": "runner"}, "'runner' is not in")):
        with pytest.raises(dx.MethodError, match=said):
            read(StoryScene("the circle runs", subjects), TWO)


def test_longer_names_win():
    found = read("anna and ann", checked({"ann": "a cat", "anna": "a dog"}))
    assert found.prompt == "a dog and a cat"


@pytest.mark.parametrize(
    "scene, held",
    [
        ("ben and a cross", ["ben"]),
        ("a red circle and a cross", ["ben"]),
        ("a red circle and a circle", ["ann", "ben"]),
        ("ann above a red circle", ["ann", "ben"]),
        ("a circle", ["ann"]),
    ],
)
def test_a_text_inside_a_longer_one_is_not_its_subject(scene, held):
    found = read(scene, checked({"ann": "a circle", "ben": "a red circle"}))
    assert list(found.subjects) == held


def test_subjects_of_one_text_are_both_found_by_it():
    same = checked({"ann": "a circle", "ben": "a circle"})
    assert list(read("a circle", same).subjects) == ["ann", "ben"]
    assert list(read("ben", same).subjects) == ["ben"]


@pytest.mark.parametrize(
    "subjects, said",
    [
        ({}, "got none"),
        (["ann"], r"a story has subjects by name, as subjects=.*, got \['ann'\]; name them"),
        ({"a b": "a cat"}, "one word, got 'a b'"),
        ({"": "a cat"}, "one word, got ''"),
        ({"ann": " "}, "says what it looks like, got ''"),
        ({"ann": "a cat", "Ann": "a dog"}, "got 'ann' twice"),
    ],
)
def test_subjects_that_do_not_fit(subjects, said):
    with pytest.raises(dx.MethodError, match=said):
        checked(subjects)


@pytest.mark.parametrize("scene", ["", "  ", 3, None])
def test_scenes_that_do_not_fit(scene):
    with pytest.raises(dx.MethodError, match="a scene is a text that is not empty"):
        read(scene, TWO)
