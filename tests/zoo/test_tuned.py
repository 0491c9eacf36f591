"""Test that the guidance settings that the zoo ships as defaults were measured to do no harm.

`METHOD.json` beside the weights holds the measurement with the settings: neither changes without the other.
"""

import json

import pytest

import diffusers_ext as dx
from diffusers_ext.evaluate.statistics import mcnemar
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.fingerprint import marks
from diffusers_ext.settings.registry import METHODS
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.world.suites import IMAGE_TASKS

FILES = [
    file
    for name in catalogue.MODELS
    for m in METHODS
    if (file := catalogue.path(name) / f"{m}.json").exists()
]
tuned = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
PROMPTS, ALPHA = 200, 0.05


def test_compare_without_options_has_tuned_settings_on_every_model():
    assert {path.parent.name for path in FILES if path.stem == "softpag"} == set(catalogue.MODELS)


@tuned
def test_the_default_is_not_significantly_worse_than_plain(path):
    """Apply McNemar's test to pairs of equal prompt and seed, none of which had a part in the choice."""
    pair = json.loads(path.read_text())["confirmed"]["paired"]
    assert pair["n"] >= PROMPTS
    assert pair["difference"] == pytest.approx((pair["wins"] - pair["losses"]) / pair["n"])
    assert pair["p"] == pytest.approx(mcnemar(pair["wins"], pair["losses"]))
    assert pair["high"] >= 0 and not (pair["difference"] < 0 and pair["p"] < ALPHA)


@tuned
def test_the_measurement_is_of_these_weights_these_settings_and_the_usual_call(path):
    name, found = path.parent.name, json.loads(path.read_text())
    where, confirmed = found["found_on"], found["confirmed"]
    assert {key: where[key] for key in ("weights", "configs")} == marks(path.parent)
    assert where["call"] == dict(catalogue.MODELS[name].call) and where["suite"] == "tuning"
    (chosen,) = [t for t in found["tried"] if t["settings"] == found["settings"]]
    assert chosen["overall"] == found["overall"] and chosen["paired"] == found["paired"]
    preset = dx.preset(name, path.stem)
    assert preset == type(preset)(**found["settings"])
    tasks = catalogue.MODELS[name].tasks or IMAGE_TASKS
    assert confirmed["paired"]["n"] == confirmed["n"] * len(tasks)
    asked = questions("tuning", where["n"] + confirmed["n"], where["seed"], tasks)
    assert found["overall"]["n"] + confirmed["paired"]["n"] == len({q.item for q in asked}), "no pair twice"
