"""Test the study of HeadHunter on a tiny model, and the figures that it computes."""

import json
import random

import pytest

import diffusers_ext as dx
from bench.studies import headhunter
from bench.studies.headhunter import (
    FAST,
    HEADS,
    LAYER,
    LONGER,
    PLAIN,
    best,
    layers,
    logged,
    longer,
    main,
    more,
    movers,
    reliability,
    results,
    sets,
    to_markdown,
)
from diffusers_ext.evaluate.score import Judged
from diffusers_ext.processors.head_set import Head, Pick


def heads(count=4):
    alone = {"a": [0.5, 0.6], "b": [0.1, None, 0.2]}
    picks = tuple(Pick("ab"[i % 2], i // 2, 0.5) for i in range(count))
    return dx.HeadSet(picks, alone=alone)


def test_heads_and_layers_try_different_settings_and_the_layers_no_fewer():
    own, single = sets(heads()), layers(heads())
    assert [len(m.heads.picks) for m in own.values()] == [1, 1, 3, 3, 4, 4]
    assert len(single) == 6 >= 5 and {path for m in single.values() for path in m.heads} == {"a", "b"}
    extra = more(single[best(dict.fromkeys(single, 0.0))])
    assert len(extra) == len(own) and not extra.keys() & single.keys()


def test_the_plain_model_gets_as_many_evaluations():
    assert longer(15, 45, 30) == 23 and longer(10, 20, 10) == 20


def test_a_log_is_read_and_drawn_twice_counts_once(tmp_path):
    rows = [
        {"base": "score", "path": None, "head": None, "pair": 0, "score": 1.0},
        {"base": "score", "path": "a", "head": 1, "pair": 0, "score": 0.5},
        {"base": "score", "path": "a", "head": 1, "pair": 1, "score": 0.7},
        {"base": "score", "path": "a", "head": 1, "pair": 0, "score": 0.5},
        {"base": "move", "path": "a", "head": 1, "pair": 0, "score": 0.1},
    ]
    (tmp_path / "log.jsonl").write_text("{}\n" + "".join(json.dumps(row) + "\n" for row in rows))
    assert logged(tmp_path / "log.jsonl") == {
        "score": {Head("a", 1): [0.5, 0.7]},
        "move": {Head("a", 1): [0.1]},
    }


def test_reliability_is_one_without_noise_and_about_nothing_for_noise_alone():
    exact = {Head("a", h): [float(h)] * 8 for h in range(20)}
    draw = random.Random(0)
    noise = {head: [draw.random() for _ in range(8)] for head in exact}
    assert reliability(exact) == pytest.approx(1.0) and abs(reliability(noise)) < 0.4
    assert movers({head: values[:1] for head, values in exact.items()}) == list(exact)[:9:-1]


def judged(right, rewards, cost):
    return [
        Judged(f"p{i}", i, "two_object", bool(r), "", reward=s, cost=cost)
        for i, (r, s) in enumerate(zip(right, rewards, strict=True))
    ]


def test_the_table_has_shares_rewards_and_paired_differences():
    better = judged([1] * 8 + [0] * 4, [0.9] * 12, 45)
    found = results(
        {PLAIN: judged([1] * 6 + [0] * 6, [0.8] * 12, 30)}
        | dict.fromkeys((LONGER, LAYER, HEADS, FAST), better)
    )
    assert found["variants"][PLAIN]["evaluations"] == 30
    facts = {"evaluations": 90, "top_k": 2, "pairs": 3, "shared": 1, "movers": 2, "reliability": 0.25}
    text = to_markdown(
        found
        | {"model": "m", "search": facts, "fast": facts | {"evaluations": 30}}
        | {name: {HEADS: "x", LAYER: "y"} for name in ("chosen", "tuning_pictures")}
    )
    assert "| plain | 50 % (25 to 75) | 0.800 (0.800 to 0.800) | 30 |" in text
    assert "- HeadHunter - plain: +17 points" in text and "reward +0.1000 (+0.1000 to +0.1000)" in text
    assert "took 30 evaluations, HeadHunter 90; 1 of 2 heads are the same, and 2 are in the half" in text


@pytest.mark.slow
def test_the_study_runs_on_a_tiny_model(carded_model, tmp_path, monkeypatch):
    monkeypatch.setattr(headhunter, "MORE", ((2.0, 0.5),))
    words = ["--model", carded_model, "--n", "1", "--tuning-n", "1", "--out", tmp_path, "--cache", tmp_path]
    monkeypatch.setattr("sys.argv", ["headhunter", *map(str, words)])
    main()
    (file,) = tmp_path.glob("headhunter-*.json")
    found = json.loads(file.read_text())
    assert set(found["variants"]) == {PLAIN, LONGER, LAYER, HEADS, FAST}
    assert found["search"]["pairs"] == 6 and found["tuning_pictures"][LAYER] >= found["search"]["pictures"]
