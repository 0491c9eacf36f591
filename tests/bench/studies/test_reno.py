"""Test the study of ReNO: the same noise for all, what is best so far, and reward against truth."""

import pytest

from bench.studies.paired_verdicts import results
from bench.studies.reno import (
    ITERATIONS,
    Runner,
    Tried,
    ahead,
    curve,
    gap,
    memory,
    memory_to_markdown,
    settings,
    to_markdown,
)
from diffusers_ext.evaluate.score import Judged
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.rewards import ShapesCLIP
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.reno import ReNO

ASKED = questions("tuning", 1, 0, ("single_object", "counting"))


def tried(scores, right):
    judged = [Judged("a red circle", 0, "single_object", bool(r), "") for r in right]
    return Tried(ASKED[0], scores, judged)


def test_samplers_begin_with_the_same_noise_and_run_once(tmp_path):
    reward = ShapesCLIP()
    runner = Runner("shapes-sd-turbo", tmp_path, 1)
    climb = ReNO(rewards=reward, iterations=2, keep_pictures=True)
    both = BestOfN(rewards=reward, n=2, keep_pictures=True, refine=climb)
    climbed, many = (runner.tried(sampler, ASKED) for sampler in (climb, both))
    for a, b in zip(climbed, many, strict=True):
        assert a.scores[0] == pytest.approx(b.scores[0], abs=1e-4) and a.judged[0] == b.judged[0]
        assert (len(a.scores), len(b.scores)) == (2, 4)
        assert b.scores[2] == pytest.approx(max(b.scores[:2]), abs=1e-4), "it goes on from the best"
    files = {file: file.read_text() for file in tmp_path.glob("*.jsonl")}
    assert len(files) == 2 and runner.tried(both, ASKED) == many
    assert {file: file.read_text() for file in tmp_path.glob("*.jsonl")} == files
    assert runner.tried(both, ASKED[:1]) == many[:1]


def test_settings_name_a_run():
    climb = ReNO(iterations=3, lr=2.0)
    assert settings(climb)["lr"] == 2.0 and settings(BestOfN(n=4, refine=climb))["refine"] == settings(climb)
    assert settings(BestOfN(n=4)) == {"sampler": "best-of-n", "n": 4}


def test_the_best_so_far_is_the_earliest_of_equal_ones():
    found = tried([0.5, 0.7, 0.7, 0.6, 0.9], [0, 1, 0, 0, 0])
    assert [found.best(count) for count in range(1, 8)] == [0, 1, 1, 1, 4, 4, 4]
    assert found.verdict(3).correct and not found.verdict(5).correct and found.score(4) == 0.7


def test_reward_against_truth():
    some = [tried([0.5, 0.6], [1, 0]), tried([0.5, 0.7], [0, 1]), tried([0.5, 0.4], [1, 0])]
    found = gap(some, 2)
    assert (found["rose"], found["spoiled"], found["mended"]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    assert found["least"] == 0 and found["gain"] == pytest.approx(0.1) and found["low"] < 0.1 < found["high"]
    way = curve(some, (1, 2), (1, 4))
    assert [row["accuracy"] for row in way] == pytest.approx([2 / 3, 2 / 3])
    assert way[1]["reward"] == pytest.approx(1.8 / 3) and way[1]["evaluations"] == 4


def test_the_table_shows_both():
    some = [tried([0.5, 0.6], [1, 0]), tried([0.5, 0.7], [0, 1])] * 5
    verdicts = {label: [t.verdict(n) for t in some] for label, n in (("plain", 1), ("ReNO", 2))}
    found = results(verdicts, [("plain", "ReNO")]) | {
        "suite": "held-out",
        "evaluations": {"plain": 1, "ReNO": 46},
        "ahead": ahead(
            {"plain": (some, 1, 1), "best of 2": (some, 2, 2), "ReNO": (some, 2, 4)},
            [("plain", "ReNO"), ("best of 2", "ReNO")],
        ),
        "gap": {"ReNO": gap(some, 2)},
        "curve": {"ReNO": curve(some, (1, ITERATIONS), (1, 46))},
    }
    text = to_markdown(found)
    assert "| ReNO | 46 | 0.150 (" in text and "| 100 % | 50.0 % | 50.0 % |" in text
    assert f"| ReNO, pictures | 1 | {ITERATIONS} |" in text and "| mean reward | 0.500 | 0.650 |" in text
    assert "the least gain is 0.100." in text and "- ReNO - plain: " in text
    assert "- reward, ReNO - plain: +0.150 (+0." in text
    assert "- reward, ReNO - best of 2: +0.000 (+0.000 to +0.000)" in text


def test_memory_by_option(carded_model):
    found = memory(carded_model, 1, "a red circle")
    assert found["checkpoint_denoiser"] < found["none"] and found["checkpoint_decoder"] < found["none"]
    text = memory_to_markdown({"memory": {"turbo": found | {"none": 3 * 2**20}}})
    assert "| `none` | 3.0 MiB |" in text and "as set" not in text
