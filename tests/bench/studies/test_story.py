"""The study of stories: what it asks, what it measures, how it chooses, and its table."""

import json

import numpy as np
import pytest
from PIL import Image

import diffusers_ext as dx
from bench.ledger import RESULTS
from bench.studies import story
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.pipelines.story_panel import Panel
from diffusers_ext.settings.methods import as_dict
from diffusers_ext.zoo.world.captions import Object, Spec
from diffusers_ext.zoo.world.render import draw as painted

RED, BLUE, GREEN = Object("red", "circle"), Object("blue", "square"), Object("green", "star")
MISSING = {"right": False, "subjects": [None, None]}


def panel(*objects, seed=0):
    image = Image.fromarray(painted(Spec(objects), seed))
    return Panel(image, image, Spec(objects).caption, seed, (), {})


def test_asks_have_a_third_object_that_shares_nothing():
    asked = story.asks("tuning", 20, 0)
    for ask in asked:
        taken = {x for o in ask.subjects for x in (o.colour, o.shape)}
        assert not {ask.third.colour, ask.third.shape} & taken
        two, three = ask.scenes
        assert set(two.objects) == set(ask.subjects) and set(three.objects) == {*ask.subjects, ask.third}
    assert asked == story.asks("tuning", 20, 0)
    noises = [
        {a.seed + story.APART * i for a in story.asks(s, 20, 0) for i in (0, 1)}
        for s in ("tuning", "held-out")
    ]
    assert len(noises[0]) == len(noises[1]) == 40 and not noises[0] & noises[1]


def test_what_is_seen_by_rendered_pictures():
    references = {"a": panel(RED, seed=1), "b": panel(BLUE, seed=2)}
    scene = panel(RED, BLUE, seed=4)
    facts = story.seen(Spec((RED, BLUE)), scene, scene.image, references)
    assert facts["right"] and all(s["place"] == 1 and s["colour"] < 0.1 for s in facts["subjects"])
    other = panel(RED, GREEN, seed=5)
    facts = story.seen(Spec((RED, BLUE)), scene, other.image, references)
    assert not facts["right"] and facts["subjects"][1] is None and facts["subjects"][0]["place"] < 1
    same = story.seen(Spec((RED,)), references["a"], references["a"].image, {"a": references["a"]})
    assert same == {"right": True, "subjects": [{"colour": 0.0, "size": 0.0, "place": 1.0}]}


def facts(right, colour, place=1.0):
    return {"right": right, "subjects": [{"colour": colour, "size": 0.5, "place": place}, None]}


def test_measures_are_compared_where_both_have_the_subject():
    stories = [
        {story.PLAIN: [facts(True, 0.2), facts(False, 0.4)], "x": [facts(True, 0.1), MISSING]},
        {story.PLAIN: [facts(True, 0.2), MISSING], "x": [facts(False, 0.3), facts(True, 0.9)]},
    ]
    found = story.summary(stories, "x")
    assert found["right"]["accuracy"] == 0.5 and found["colour"]["n"] == 2
    assert found["colour"]["mean"] == pytest.approx(0.2)
    assert found["colour less plain"]["mean"] == pytest.approx(0.0)
    assert found["colour less plain"]["low"] == pytest.approx(-0.1)


def test_the_choice_is_the_closest_of_those_that_do_no_harm():
    def entry(right, colour):
        return {"right": {"accuracy": right}, "colour": {"mean": colour}}

    found = {story.PLAIN: entry(0.9, 0.3), "a": entry(0.9, 0.2), "b": entry(1.0, 0.25), "c": entry(0.8, 0.1)}
    assert story.chosen(found) == "a"
    found |= {"a": entry(0.7, 0.2), "b": entry(0.8, 0.25)}
    assert story.chosen(found) == "b"


def test_a_story_is_drawn_once(tmp_path):
    drawn = []

    class Counting(story.Drawer):
        def measured(self, ask, variants):
            drawn.append(ask)
            return super().measured(ask, variants)

    def left_or_right(image, text):
        """A segmenter that does not look."""
        mask = np.zeros(image.shape[:2])
        mask[:, :32] = 1
        return mask if text == str(asked[0].subjects[0]) else 1 - mask

    pipe = Checkpoint.resolve(story.MODEL).load()
    pipe.set_progress_bar_config(disable=True)
    asked = story.asks("tuning", 1, 0)
    drawer = Counting(pipe, left_or_right, num_inference_steps=4)
    variants = {"off": {"isolation": False, "start_layer": 1.0, "cross_lambda": 0.0}, "on": {"start": 0.0}}
    for _ in range(2):
        (found,) = story.kept(drawer, asked, variants, tmp_path, "marks")
    assert len(drawn) == 1 and len(found[story.PLAIN]) == 2
    assert found["off"] == found[story.PLAIN]


def test_stories_that_drop_out_are_named():
    found = json.loads((RESULTS / f"story-{story.MODEL}.json").read_text())
    found["dropped"] = {"stories": 3, "tuning_stories": 1}
    said = "References of 3 further stories, and 1 of tuning, were not found."
    assert story.to_markdown(found).endswith(said)


def test_the_committed_figures_are_of_the_shipped_weights():
    found = json.loads((RESULTS / f"story-{story.MODEL}.json").read_text())
    assert found["weights"] == Checkpoint.resolve(story.MODEL).fingerprint
    assert found["settings"] == story.TRIED[story.chosen(found["tried"])]
    preset = as_dict(dx.preset(story.MODEL, "ir-diffusion"))
    assert {name: preset[name] for name in found["settings"]} == found["settings"]
    for label, entry in found["variants"].items():
        assert f"| {label} | " in story.to_markdown(found) and entry["right"]["n"] == 2 * found["stories"]


def test_the_picture_has_a_row_for_subjects_and_each_way(tmp_path):
    from bench.studies.story_picture import scenes

    (ask,) = story.asks("held-out", 1, 0)
    texts = scenes(ask)
    assert len(texts) == 4 and all(str(o) in texts[0] for o in ask.subjects)
    assert [str(ask.third) in text for text in texts] == [False, True, True, True]
