"""Test the study of binding: what it counts in a picture, what it compares, and the tables of its pages."""

from dataclasses import asdict

import pytest
from PIL import Image

from bench.studies.binding import (
    ASTAR,
    MEASURES,
    PLAIN,
    RETENTION,
    SEGREGATION,
    compared,
    costs,
    measured,
    seen,
    tried,
)
from bench.studies.binding_tables import ablation, astar, structured, tuning
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.runner import key
from diffusers_ext.evaluate.statistics import paired
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.zoo.world.captions import Object, Spec, parse
from diffusers_ext.zoo.world.render import draw


@pytest.mark.parametrize(
    "shown, facts",
    [
        ("a red circle and a blue square", (True, True, True, True)),
        ("a blue circle and a red square", (True, True, False, False)),
        ("a red circle and a red square", (True, False, False, False)),
        ("a red circle and a blue star", (False, True, False, False)),
        ("a red circle, a blue square and a blue star", (True, True, True, False)),
    ],
)
def test_what_a_picture_shows(shown, facts):
    found = seen(draw(parse(shown), 1), parse("a red circle and a blue square"))
    assert tuple(found[m] for m in MEASURES) == facts


def test_what_is_compared_differs_from_the_default_as_its_label_says():
    methods = compared()
    assert methods[PLAIN] == () and tried()["default"] == methods[ASTAR]
    assert methods[SEGREGATION][0].retention == 0 == methods[RETENTION][0].segregation
    settings = [each for label, each in (methods | tried()).items() if label != "default"]
    assert len({repr(each) for each in settings}) == len(settings) - 1  # Attend-and-Excite is in both


def test_shares_are_of_the_pictures_that_were_kept(tmp_path):
    """Two prompts: the plain pictures show them, those of the other method show them with colours swapped."""
    asked, methods = questions("tuning", 2, 0, ("color_attr",)), {PLAIN: (), ASTAR: compared()[ASTAR]}
    pictures = Pictures(tmp_path)
    for label, each in methods.items():
        for question in asked:
            spec = parse(question.item.prompt)
            first, second = spec.objects
            swapped = Spec((Object(second.colour, first.shape), Object(first.colour, second.shape)))
            image = Image.fromarray(draw(swapped if each else spec, 1))
            pictures.add(key(Variant(label, each)), question.item, image)
    found = measured(asked, methods, pictures)
    assert [found["measures"][PLAIN][m]["accuracy"] for m in MEASURES] == [1, 1, 1, 1]
    assert [found["measures"][ASTAR][m]["accuracy"] for m in MEASURES] == [1, 1, 0, 0]
    assert found["changes"][ASTAR]["objects"]["losses"] == 2
    again = measured([*asked, *asked], methods, pictures)["changes"][ASTAR]["objects"]
    assert again["interval"] == "bootstrap over prompts", "prompts that repeat are no independent pictures"


def test_a_pass_for_gradients_costs_three_evaluations():
    spent = costs({PLAIN: (), ASTAR: compared()[ASTAR]})
    assert spent[PLAIN] == {"evaluations": 30}
    assert spent[ASTAR] == {"evaluations": 30 + 3 * 7}  # half of 15 steps


def test_the_tables_hold_what_was_found():
    share = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    differs = asdict(paired([True, False] * 10, [True] * 20))
    tasks = {"tasks": {"two_object": share}, "overall": share}
    labels = list(compared())
    found = {
        "model": "shapes-sd",
        "suite": "held-out",
        "n": 20,
        "tuning_n": 10,
        "variants": dict.fromkeys(labels, tasks),
        "measures": {label: dict.fromkeys(MEASURES, share) for label in labels},
        "changes": {label: dict.fromkeys(MEASURES, differs) for label in labels[1:]},
        "costs": {label: {"evaluations": 51} for label in labels},
        "tried": dict.fromkeys([PLAIN, *tried()], tasks),
        "tried_paired": dict.fromkeys(tried(), differs),
    }
    cells = " | ".join(["50 % (40 to 60)"] * 4)
    assert f"| A-STAR | {cells} | 51 |" in astar(found)
    assert astar(found).endswith("takes pictures of one prompt as independent.")
    assert "- structured - plain: shapes +50 (+" in structured(found)
    assert "| retention alone | 50 % (40 to 60) | 50 % (40 to 60) | +50 (+" in ablation(found)
    assert "| plain | 50 % | 50 % |  |" in tuning(found) and "| default | 50 % | 50 % | +50 (+" in tuning(
        found
    )
