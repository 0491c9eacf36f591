import pytest

from diffusers_ext.zoo.world.captions import SHAPES, WORDS, Object
from diffusers_ext.zoo.world.motion import MOTIONS, Actor, Script, held_out_motion, parse
from diffusers_ext.zoo.world.suites import SPLITS, VIDEO_TASKS, suite

RED, BLUE = Object("red", "circle"), Object("blue", "square")


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_captions_of_every_suite_are_read_back_and_use_known_words(task):
    for script in (parse(s.caption) for split in SPLITS for s in suite(split, task, 60)):
        assert parse(script.caption) == script and script.task == task
        assert set(script.caption.split()) <= set(WORDS)


def test_captions_read_as_english():
    assert Script((Actor(RED, "moves left"),)).caption == "a red circle moves left"
    both = Script((Actor(RED, "moves left"), Actor(BLUE, "moves right")))
    assert both.caption == "a red circle moves left while a blue square moves right" and both.crossing
    beside = Script((Actor(BLUE), Actor(RED, "moves up")))
    assert beside.caption == "a blue square and a red circle moving up" and not beside.crossing
    assert parse(" A red circle  GROWS while a blue square appears. ").task == "two_motion"


def test_still_captions_are_those_of_pictures():
    assert Script((Actor(RED), Actor(BLUE))).caption == "a red circle and a blue square"


def test_each_motion_holds_one_shape_out():
    for motion in MOTIONS:
        assert sum(held_out_motion(motion, shape) for shape in SHAPES) == 1
    assert {s for m in MOTIONS for s in SHAPES if held_out_motion(m, s)} == set(SHAPES)


@pytest.mark.parametrize(
    "actors",
    [
        (),
        (Actor(RED), Actor(RED, "moves left")),
        (Actor(RED, "moves left"), Actor(BLUE)),
        (Actor(RED), Actor(BLUE, "grows")),
        (Actor(RED), Actor(BLUE), Actor(Object("pink", "star"))),
    ],
)
def test_scripts_that_the_grammar_cannot_say_are_refused(actors):
    with pytest.raises(ValueError, match=r"Script needs|beside an object at rest"):
        Script(actors)


@pytest.mark.parametrize(
    "caption", ["a red circle moves", "two red circles", "a red circle left of a cat", ""]
)
def test_other_captions_are_refused_with_an_example(caption):
    with pytest.raises(ValueError, match="a red circle moves left"):
        parse(caption)


def test_unknown_motion_is_refused():
    with pytest.raises(ValueError, match="is one of"):
        Actor(RED, "jumps")
