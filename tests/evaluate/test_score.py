import pytest
from PIL import Image

from diffusers_ext.evaluate.score import Judged, compare, judge, summarise
from diffusers_ext.evaluate.statistics import wilson
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

PROMPTS = {
    "single_object": "a red square",
    "two_object": "a green circle and a green star",
    "counting": "three yellow triangles",
    "color_attr": "a green circle and a blue star",
    "position": "a cyan star left of a red circle",
    "three_object": "a red square, a green star and a blue circle",
}


def rendered(prompt, seed=0):
    return Image.fromarray(draw(parse(prompt), seed))


def test_tasks_are_those_of_the_world():
    from diffusers_ext.zoo.world.suites import IMAGE_TASKS

    assert list(IMAGE_TASKS) == list(PROMPTS)


@pytest.mark.parametrize("task, prompt", PROMPTS.items())
def test_rendered_pictures_are_right_for_their_prompt_only(task, prompt):
    picture = rendered(prompt)
    judged = judge(picture, prompt, 7, task="color_attr" if task == "color_attr" else None)
    assert (judged.task, judged.correct, judged.seed) == (task, True, 7)
    other = judge(picture, "a purple cross", 7)
    assert other.correct is False
    assert "missing a purple cross" in other.reason


@pytest.mark.parametrize(
    "image, prompt, match",
    [
        (rendered("a red square"), "a portrait of a cat", "not in the grammar"),
        (rendered("a red square").resize((128, 128)), "a red square", "not a 64x64"),
    ],
)
def test_no_ground_truth_is_no_verdict(image, prompt, match):
    judged = judge(image, prompt, 0)
    assert judged.correct is None and judged.task is None
    assert match in judged.reason


def test_binding_and_neglect_are_told_apart():
    asked = "a green circle and a blue star"
    drawn = "a blue circle and a green star", "a green circle", "a green star and a blue star", asked
    judged = [judge(rendered(d, seed=3), asked, i, task="color_attr") for i, d in enumerate(drawn)]
    assert [j.correct for j in judged] == [False, False, False, True]
    assert [j.swapped for j in judged] == [True, False, False, False]
    assert judged[0].reason == "the colours are swapped: found a blue circle and a green star"
    found = summarise(judged)["tasks"]["color_attr"]
    assert (found["accuracy"], found["swapped"], found["n"]) == (0.25, 0.25, 4)


def verdicts(*correct):
    return [Judged("a red square", i, "single_object", c, "") for i, c in enumerate(correct)]


def test_summary_has_the_promised_keys():
    judged = [
        *verdicts(True, True, False),
        Judged("two blue stars", 3, "counting", False, ""),
        *verdicts(None),
    ]
    found = summarise(judged)
    assert list(found["tasks"]) == ["single_object", "counting"]
    assert found["tasks"]["single_object"]["accuracy"] == pytest.approx(2 / 3)
    assert found["tasks"]["counting"] == {"accuracy": 0.0, "low": 0.0, "high": wilson(0, 1)[1], "n": 1}
    assert found["overall"]["accuracy"] == 0.5 and found["overall"]["n"] == 4
    assert summarise(verdicts(None))["overall"] is None


def test_comparison_pairs_items():
    found = compare(verdicts(True, False, False, None), verdicts(True, True, False, True))
    assert found["overall"]["wins"] == 1 and found["overall"]["losses"] == 0
    assert found["overall"]["n"] == 3
    assert found["overall"] == found["tasks"]["single_object"]


def test_comparison_refuses_other_items():
    with pytest.raises(ValueError, match="same prompts and seeds"):
        compare(verdicts(True, False), verdicts(True, False)[::-1])
