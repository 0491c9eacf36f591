import json
from itertools import combinations

import numpy as np
import pytest

from bench.ledger import RESULTS
from bench.studies.headroom import Bench, again, best_of, chosen, interval, main, oracle, reward, sweep
from bench.studies.headroom_chart import chart
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import fingerprint, marks
from diffusers_ext.zoo import catalogue

RIGHT = np.random.default_rng(0).random((6, 5)) < 0.4
SCORES = np.random.default_rng(1).normal(size=RIGHT.shape)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_choices_are_averages_over_all_draws_of_seeds(k):
    draws = [list(c) for c in combinations(range(5), k)]
    assert np.allclose(oracle(RIGHT, k), np.mean([RIGHT[:, c].any(1) for c in draws], 0))
    best = [np.take_along_axis(RIGHT[:, c], SCORES[:, c].argmax(1)[:, None], 1)[:, 0] for c in draws]
    assert np.allclose(chosen(RIGHT, SCORES, k), np.mean(best, 0))


def test_limits():
    assert np.allclose(chosen(RIGHT, SCORES, 1), RIGHT.mean(1))
    assert np.allclose(oracle(RIGHT, 1), RIGHT.mean(1))
    perfect = RIGHT.astype(float)
    assert np.allclose(chosen(RIGHT, perfect, 3), oracle(RIGHT, 3)), "a perfect scorer is the oracle"


def test_interval_is_that_of_a_mean():
    values = np.random.default_rng(2).normal(size=400)
    found = interval(values)
    mean, half = values.mean(), 1.96 * values.std() / 20
    assert (found["low"], found["high"]) == pytest.approx((mean - half, mean + half), abs=0.02)


def test_seeds_of_a_prompt_share_no_noise():
    asked = questions("tuning", 3)
    seeds = [q.item.seed for seed in range(8) for q in again(asked, seed)]
    assert len(set(seeds)) == len(seeds) and max(seeds) < 2**63
    assert again(asked, 0) == asked


@pytest.fixture
def bench(pipe, saved_model, tmp_path):
    made = Bench(Checkpoint.resolve(saved_model), pipe, questions("tuning", 1), tmp_path, batch=6)
    made.call = {"num_inference_steps": 1, "guidance_scale": 4.0, "max_sequence_length": 16}
    return made


def test_a_second_run_makes_nothing_and_finds_the_same(bench):
    def brightness(images, prompts):
        assert len(images) == len(prompts) == len(bench.asked)
        return [float(np.asarray(i).mean()) for i in images]

    def measure():
        return {
            "model": "x", "n": 1, "best_of": best_of(bench, 3, {"brightness": brightness}),
            "guidance": sweep(bench, "guidance_scale", (1.0, 4.0)),
            "steps": sweep(bench, "num_inference_steps", (1, 2)),
        }  # fmt: skip

    made = []
    bench.pipe.vae.decoder.register_forward_hook(lambda module, inputs, output: made.append(len(output)))
    first = measure()
    assert sum(made) == 6 * 5, "three seeds, one more scale, one more step count; the default is shared"
    assert measure() == first and sum(made) == 30
    assert first["best_of"]["counts"] == [1, 2, 3]
    assert [len(first["best_of"][judge]) for judge in ("oracle", "brightness")] == [3, 3]
    assert len(chart(first).axes) == 4


def test_an_unknown_reward_is_refused():
    with pytest.raises(SystemExit, match="error: unknown reward 'nope'; the zoo has shapes-clip"):
        reward("nope")


def test_rewards_are_not_asked_about_clips(saved_clip_model, tmp_path):
    where = ["--work", str(tmp_path), "--out", str(tmp_path), "--device", "cpu"]
    words = r"error: rewards score single pictures, and .* makes clips; leave the reward out"
    with pytest.raises(SystemExit, match=words):
        main(["--model", str(saved_clip_model), "--reward", "shapes-clip", "--n", "1", *where])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["shapes-sd3", "shapes-wan"])
def test_the_committed_charts_are_of_the_weights_that_ship(model):
    found = json.loads((RESULTS / f"headroom-{model}.json").read_text())
    assert marks(catalogue.path(model)).items() <= found.items(), (
        f"run bench.studies.headroom --model {model} again"
    )
    for name, mark in found["rewards"].items():
        assert fingerprint(catalogue.path(name)) == mark, f"run bench.studies.headroom --model {model} again"


def test_the_learned_reward_chooses_better_than_chance_and_worse_than_the_oracle():
    best = json.loads((RESULTS / "headroom-shapes-sd3.json").read_text())["best_of"]
    one, learned, most = (
        best[who][i]["overall"]["accuracy"] for who, i in (("oracle", 0), ("shapes-clip", -1), ("oracle", -1))
    )
    assert one < learned <= most
