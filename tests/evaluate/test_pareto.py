"""Test the figures of samplers: what they cost, their rewards, and which ones none beats."""

import pytest

from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.pareto import common, figures, front, rows
from diffusers_ext.evaluate.score import Judged
from diffusers_ext.evaluate.statistics import mean


def column(rights, cost, rewards, prompts=None):
    prompts = prompts or [f"prompt {i}" for i in range(len(rights))]
    return [
        Judged(p, i, "two_object", right, "", 0.5, False, reward, cost)
        for i, (p, right, reward) in enumerate(zip(prompts, rights, rewards, strict=True))
    ]


def measured(n=12):
    half = [i % 2 == 0 for i in range(n)]
    columns = [
        column(half, 30.0, [0.1 * i for i in range(n)]),
        column([True] * n, 240.0, [0.1 * i + 0.5 for i in range(n)]),
        column([False] * n, 240.0, [0.1 * i - 0.5 for i in range(n)]),
    ]
    return figures([Variant("plain"), Variant("good"), Variant("bad")], columns), columns


def test_figures():
    found, _ = measured()
    methods, paired = found["methods"], found["paired"]
    assert [methods[m]["overall"]["accuracy"] for m in methods] == [0.5, 1.0, 0.0]
    assert [methods[m]["cost"]["mean"] for m in methods] == [30, 240, 240]
    assert methods["plain"]["reward"]["mean"] == pytest.approx(0.55)
    assert methods["plain"]["reward"]["low"] < 0.55 < methods["plain"]["reward"]["high"]
    assert paired["good"]["overall"]["wins"] == 6 and paired["bad"]["overall"]["losses"] == 6
    assert paired["good"]["against"] == "plain" and "plain" not in paired
    gain = paired["good"]["reward"]
    assert gain["mean"] == pytest.approx(0.5) and gain["high"] - gain["low"] < 1e-9, "pairs differ alike"
    assert found["front"] == ["plain", "good"]


def test_rows_are_the_table():
    found, _ = measured()
    assert rows(found)[0] == ["", "evaluations", "right", "minus plain", "mean reward"]
    assert [row[:2] for row in rows(found)[1:]] == [["plain", "30"], ["good", "240"], ["bad", "240"]]
    assert rows(found)[1][2].startswith("50 % (") and rows(found)[2][3].startswith("+50 points (")
    assert rows(found)[1][4].startswith("0.550 (0.")


def test_few_pictures_are_counted():
    found, _ = measured(4)
    assert rows(found)[1][2:] == ["2 of 4", "", "0.150"]
    assert rows(found)[2][3] == "2 wins, 0 losses of 4"


def test_only_pictures_that_all_columns_have_are_compared():
    _, columns = measured()
    kept = common([columns[0], columns[1][2:], columns[2][:9]])
    assert [[j.seed for j in own] for own in kept] == [list(range(2, 9))] * 3
    assert common([columns[0], []]) == [[], []]


@pytest.mark.parametrize(
    "points, kept",
    [
        ({"a": (1, 0.5), "b": (2, 0.5), "c": (2, 0.6), "d": (3, 0.55)}, ["a", "c"]),
        ({"a": (1, 0.5), "b": (1, 0.7)}, ["b"]),
        ({"d": (9, 0.1), "a": (1, 0.5)}, ["a"]),
    ],
)
def test_the_front_is_what_none_beats_at_its_cost(points, kept):
    methods = {n: {"cost": {"mean": c}, "overall": {"accuracy": q}} for n, (c, q) in points.items()}
    assert front(methods) == kept


def test_without_a_ground_truth_the_reward_decides():
    methods = {
        n: {"cost": {"mean": 1}, "overall": None, "reward": {"mean": r}} for n, r in (("a", 1), ("b", 2))
    }
    assert front(methods) == ["b"]


def test_the_interval_of_a_mean_is_over_prompts():
    alone = mean([0.0, 1.0] * 6, [f"prompt {i}" for i in range(12)])
    twice = mean([0.0, 1.0] * 6, [f"prompt {i % 2}" for i in range(12)])
    assert alone["mean"] == twice["mean"] == 0.5
    assert twice["high"] - twice["low"] > alone["high"] - alone["low"], "two prompts say less than twelve"
