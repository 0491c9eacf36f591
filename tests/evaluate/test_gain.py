"""What a method gained follows from the seconds of its pictures and of plain ones."""

import pytest

from diffusers_ext import CLEAR, NAG, SoftPAG
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.compare import run
from diffusers_ext.evaluate.gain import beside_plain
from diffusers_ext.sampling.items import Item

CALL = {"num_inference_steps": 3, "max_sequence_length": 16}
SPARSE = {
    "name": "gna",
    "kinds": ["joint"],
    "modules": 2,
    "of": 2,
    "calls": 4,
    "of_calls": 4,
    "steps": {"2": [0, 1]},
    "sparse": True,
    "backends": {"triton": 2},
    "stayed_dense": {},
    "kept": 0.25,
}
FOUND = {
    "methods": [SPARSE],
    "attention": {"denoiser": 18.0, "sparse": 6.0, "dense": 0.0, "timed": 2, "untimed": 0},
    "ideal": None,
    "estimated": None,
    "measured": None,
    "pictures": 2,
}


def test_gain_and_ideal_by_hand():
    """A plain picture takes 12 s, one of the method 10 s with 3 s of sparse attention: dense takes 5 s."""
    found = beside_plain(FOUND, [12.0, 11.0, 100.0], [10.0, 10.0])
    assert found["measured"] == pytest.approx(1.2) and found["measured_on"] == [3, 2]
    assert found["ideal"] == pytest.approx(12 / (7 + 0.25 * 5))
    assert found["sentences"] == [
        "gna ran in 2 of 2 joint attention modules at steps 1 to 2 of 2, on triton, and kept 25 % of the "
        "pairs; no call that was timed stayed dense; at best 1.5 times as fast as plain, measured 1.2 times "
        "(medians of 2 pictures and 3 plain ones)."
    ]


@pytest.mark.parametrize(
    ("plain", "own", "said"),
    [
        (1, 1, "(on one picture)"),
        (2, 2, "(medians of 2 pictures)"),
        (1, 2, "(medians of 2 pictures and 1 plain one)"),
        (3, 1, "(medians of 1 picture and 3 plain ones)"),
    ],
)
def test_the_pictures_that_were_measured_are_counted_in_words(plain, own, said):
    assert said in beside_plain(FOUND, [12.0] * plain, [10.0] * own)["sentences"][0]


def test_nothing_is_guessed():
    assert beside_plain(FOUND, [], [10.0]) == FOUND
    assert beside_plain(FOUND | {"ideal": 3.0}, [12.0], [10.0])["ideal"] == 3.0, "that of its own dense steps"
    assert beside_plain(FOUND, [5.0], [10.0])["ideal"] is None, "plain pictures took less than all the rest"
    two = FOUND | {"methods": [SPARSE, SPARSE]}
    assert beside_plain(two, [12.0], [10.0])["ideal"] is None


def test_a_comparison_measures_beside_the_plain_variant(pipe):
    clear = CLEAR(2, backend="reference", dense_steps=1)
    variants = [Variant("plain"), Variant("clear", (clear,)), Variant("both", (clear, NAG("green")))]
    comparison = run(pipe, variants, [Item("a red square", 0), Item("a star", 1)], CALL)
    found = comparison.engagements()
    assert found.keys() == {"clear", "both"}
    for label in found:
        entry = found[label]
        assert entry["measured"] > 0 and entry["measured_on"] == [2, 2] and entry["pictures"] == 2
        assert comparison.to_dict()["methods"][label]["report"]["engagement"] == entry
    first, second, third = comparison.where()
    assert first.startswith("clear ran in 3 of 3 joint attention modules at steps 2 to 3 of 3, on reference")
    assert second.startswith("both: clear ran in 3 of 3") and third.startswith("both: nag ran in 3 of 3")


def test_without_a_plain_variant_nothing_is_measured(pipe):
    comparison = run(pipe, [Variant("softpag", (SoftPAG(),))], [Item("a star", 1)], CALL)
    assert comparison.engagements()["softpag"]["measured"] is None
