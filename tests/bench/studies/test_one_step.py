"""Test a student of one step beside its teacher: cost, spread and the table of the page."""

import numpy as np

from bench.studies.one_step import Drawer, drawn, spread, to_markdown
from bench.studies.paired_verdicts import results
from tests.bench.studies.test_distillation import judged


def test_spread_is_the_root_mean_square_over_pairs():
    pictures = np.zeros((3, 2, 2, 3))
    assert spread(pictures) == 0
    pictures[0] = 0.6  # two of three pairs differ by 0.6
    np.testing.assert_allclose(spread(pictures), np.sqrt(2 / 3) * 0.6)


def test_models_are_drawn_in_turn_and_guided_steps_count_twice(carded_model):
    plain = Drawer(carded_model, 1)
    assert (plain.calls, Drawer("shapes-sd", 2).calls) == (1, 4)
    found = drawn({"plain": plain}, ["a red circle", "a blue star"], 3)["plain"]
    assert found["seconds"] > 0 and found["spread"] > 0


def test_the_table_gives_shares_of_the_teacher():
    right = {"T, 1 step": judged([0] * 10), "T, 15 steps": judged([1] * 10), "S": judged([1, 0] * 5)}
    facts = {"calls": 1, "seconds": 0.01, "spread": 0.15}
    found = results(right, [("T, 15 steps", "S")]) | {
        "card": {"samples": 64, "steps": 2, "hours": 0.1, "hardware": "a machine"},
        "reference": "T, 15 steps",
        "drawn": {"T, 15 steps": {"calls": 30, "seconds": 0.3, "spread": 0.2}, "S": facts},
        "suite": "held-out", "noises": 8, "prompts": 20, "device": "cpu",
    }  # fmt: skip
    text = to_markdown(found)
    assert "| S | 1 | 10 ms | 30.0 x | 75 % |" in text and "- S - T, 15 steps: -50 points" in text
