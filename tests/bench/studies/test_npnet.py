"""Test the comparison of an NPNet with plain noise: arms, paired figures, filter, cost."""

import json

import pytest
import torch

from bench.studies.npnet import ARMS, NETWORK, PAIRS, PLAIN, Bench, cost, figures, run, to_markdown
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.npnet.redenoise import re_denoise
from diffusers_ext.zoo.cards import CARD
from tests.sampling.npnet.tiny import network

CALL = {"height": 64, "width": 64, "num_inference_steps": 1, "max_sequence_length": 16}


@pytest.fixture
def bench(carded_model, tmp_path):
    from pathlib import Path

    (Path(carded_model) / CARD).write_text(json.dumps({"call": CALL}))
    home = tmp_path / "npnet"
    network(sample_size=32, text_tokens=48, text_width=32).save_pretrained(home)
    made = {"steps": 4, "w_denoise": 3.0, "w_invert": 1.0, "seed": 0}
    (home / CARD).write_text(json.dumps({"noise_of": carded_model, "collection": made}))
    return Bench(home)


def test_arms_share_prompt_and_seed_and_differ_in_noise(bench):
    (asked,) = questions("tuning", 1, tasks=("counting",))
    item = asked.item
    host = HostCall(bench.pipe, [item.prompt], torch.Generator().manual_seed(item.seed), **CALL)
    starts = host.draw(1)
    noise = bench.noise(host, starts)
    assert torch.equal(noise[PLAIN], starts.noise)
    assert torch.equal(noise[NETWORK], bench.npnet(host, starts.noise))
    wanted = re_denoise(host, starts, steps=4, w_denoise=3.0, w_invert=1.0)
    assert torch.equal(noise[PAIRS], wanted) and not torch.equal(wanted, starts.noise)
    rows = bench.draw([asked])
    assert [row["arm"] for row in rows] == list(ARMS)
    assert {(row["prompt"], row["seed"], row["task"]) for row in rows} == {
        (item.prompt, item.seed, "counting")
    }
    assert len({row["score"] for row in rows}) == 3


def test_a_run_goes_on(bench, tmp_path):
    asked, file = questions("tuning", 3, tasks=("counting",)), tmp_path / "rows.jsonl"
    first = run(bench, asked[:2], 2, file)
    rows = run(bench, asked, 2, file)
    assert rows[:6] == first and len(rows) == 9
    bench.draw = None  # nothing is drawn again
    assert run(bench, asked, 2, file) == rows and run(bench, asked[:1], 2, file) == rows[:3]


def row(arm, i, right, score):
    return {
        "arm": arm, "score": score, "prompt": f"p{i}", "seed": i, "task": "counting", "correct": right,
        "reason": "", "seconds": 0.0, "swapped": False,
    }  # fmt: skip


def test_figures_are_paired():
    rows = []
    for i in range(12):
        rows.append(row(PLAIN, i, i % 2 == 0, 0.5))
        rows.append(row(NETWORK, i, True, 0.5 + 0.1 * (i % 3)))
        rows.append(row(PAIRS, i, i == 1, 0.6 if i < 4 else 0.4))
    found = figures(rows)
    network_, pairs = (found["paired"][f"{arm} - {PLAIN}"]["overall"] for arm in (NETWORK, PAIRS))
    assert (network_["wins"], network_["losses"], network_["difference"]) == (6, 0, 0.5)
    assert (pairs["wins"], pairs["losses"]) == (1, 6)
    assert found["reward"][NETWORK]["mean"] == pytest.approx(0.1)
    assert found["reward"][NETWORK]["better"] == pytest.approx(8 / 12)
    assert found["filtered"]["n"] == 4 and (found["filtered"]["wins"], found["filtered"]["losses"]) == (1, 2)
    spent = {"share_of_operations": 0.004, "share_of_seconds": 0.012}
    text = to_markdown(found | {"cost": spent})
    assert "npnet - plain: +50 points" in text and "6 wins, 0 losses" in text
    assert "0.4 % of the operations" in text and "1.2 % of its time" in text


def test_cost_is_a_share_of_the_call(bench):
    found = cost(bench)
    assert 0 < found["network_operations"] < found["call_operations"]
    share = found["network_operations"] / found["call_operations"]
    assert found["share_of_operations"] == share and found["network_seconds"] > 0
