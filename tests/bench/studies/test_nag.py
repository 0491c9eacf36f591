"""The study of negative prompts: what it asks, what it counts, its table and its picture."""

import json

import numpy as np
import pytest
from PIL import Image

import diffusers_ext as dx
from bench.ledger import RESULTS
from bench.studies import nag
from bench.studies.nag_picture import draw
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.settings.methods import as_dict
from diffusers_ext.zoo.world.captions import Object, Spec
from diffusers_ext.zoo.world.render import draw as painted

RED, BLUE, GREEN = Object("red", "circle"), Object("blue", "square"), Object("green", "star")


def test_asks_name_either_object_in_turn_and_a_third_that_shares_nothing():
    asked = nag.asks("tuning", 20, 0)
    assert {a.spec.objects.index(a.named) for a in asked} == {0, 1}
    for ask in asked:
        assert {ask.named, ask.other} == set(ask.spec.objects)
        assert not {ask.third.colour, ask.third.shape} & {
            x for o in ask.spec.objects for x in (o.colour, o.shape)
        }
    assert asked == nag.asks("tuning", 20, 0) and not {a.seed for a in asked} & {
        a.seed for a in nag.asks("held-out", 20, 0)
    }


@pytest.mark.parametrize(
    "objects, gone, kept, strange",
    [((RED, BLUE), False, True, False), ((RED,), True, True, False), ((RED, GREEN), True, True, True),
     ((BLUE,), False, False, False)],
)  # fmt: skip
def test_pictures_are_counted_by_what_the_detector_finds(objects, gone, kept, strange):
    ask = nag.Ask(Spec((RED, BLUE)), 0, named=BLUE, other=RED, third=GREEN)
    picture = painted(Spec(objects), 0)
    found = nag.seen([ask], [picture])
    assert found == {"gone": [gone], "kept": [kept], "done": [gone and kept], "strange": [strange]}


def test_the_choice_is_the_first_of_the_best():
    tries = [{"settings": i, "shares": {"done": {"accuracy": a}}} for i, a in enumerate((0.1, 0.7, 0.7))]
    assert nag.chosen(tries)["settings"] == 1


def test_pictures_of_one_negative_prompt_are_those_of_each_alone():
    drawer, asked = nag.Drawer("shapes-sd-turbo", 4), nag.asks("tuning", 3, 0)
    plain = drawer.pictures(asked)
    under = drawer.under_nag(asked, lambda ask: ask.named, {"scale": 9.0})
    off = drawer.under_nag(asked, lambda ask: ask.named, {"scale": 1.0})
    for a, b in zip(off, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(under, plain, strict=True))


def test_the_committed_figures_are_of_the_shipped_weights_and_settings():
    found = json.loads((RESULTS / "nag-shapes-sd-turbo.json").read_text())
    assert found["weights"] == Checkpoint.resolve("shapes-sd-turbo").fingerprint
    assert found["settings"][nag.NAG] == nag.chosen(found["tried"][nag.NAG])["settings"]
    preset = as_dict(dx.preset("shapes-sd-turbo", "nag"))
    assert {name: preset[name] for name in ("scale", "tau", "alpha")} == found["settings"][nag.NAG]
    assert "| NAG | 90 %" in nag.to_markdown(found)


def test_a_row_for_each_way(tmp_path):
    asked = nag.asks("tuning", 6, 0)
    draw({"a": [np.zeros((8, 8, 3))] * 6, "b": [np.ones((8, 8, 3))] * 6}, asked, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width > 500
