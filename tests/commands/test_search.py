"""Test what `search` writes, repeats and refuses."""

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.outputs.record import read

from .test_cli import files

TURBO = ["-m", "shapes-sd-turbo", "--seed", 7]
ARGUED = ["--reward", "shapes-clip", "--steps", 4, "--seed", 7]


def search(cli, out, *words):
    code, said, err = cli("search", "a red square", *words, "--out", out)
    assert (code, err) == (0, ""), err
    return said, json.loads((out / "search.json").read_text())


def test_the_winner_is_the_best_candidate_and_can_be_made_again(cli, tmp_path):
    said, found = search(cli, tmp_path, *TURBO, "--sampler", "best-of-4")
    assert files(tmp_path) == sorted(
        [found["picture"], found["picture"][:-3] + "json", "candidates.png", "search.json"]
    )
    rows = found["candidates"]
    assert len(rows) == 4 == found["evaluations"] and found["methods"][-1]["n"] == 4
    assert found["score"] == max(row["score"] for row in rows) == rows[found["winner"]]["score"]
    assert all(isinstance(row["correct"], bool) and row["dropped"] is None for row in rows)
    assert f"score {found['score']:.3f}, candidate {found['winner']} of 0 to 3; " in said
    pipe = dx.load("shapes-sd-turbo")
    again = pipe("a red square", generator=torch.Generator().manual_seed(found["winner_seed"])).images[0]
    picture = Image.open(tmp_path / found["picture"])
    assert np.abs(np.asarray(again, int) - np.asarray(picture, int)).max() <= 1, "batches round otherwise"
    record = read(tmp_path / found["picture"])
    assert record["seed"] == 7 and record["methods"] == found["methods"]
    assert record["methods"][-1]["rewards"][0]["name"] == "shapes-clip"
    assert (
        "finished before"
        in cli("search", "a red square", *TURBO, "--sampler", "best-of-4", "--out", tmp_path)[1]
    )


def test_another_search_replaces_the_sheet_and_keeps_the_picture(cli, tmp_path):
    _, first = search(cli, tmp_path, *TURBO, "--sampler", "best-of-2")
    code, _, err = cli("search", "a red square", *TURBO, "--sampler", "best-of-3", "--out", tmp_path)
    assert code == 0 and "held another search" in err
    found = json.loads((tmp_path / "search.json").read_text())
    assert len(found["candidates"]) == 3
    assert len(list(tmp_path.glob("a-red-square-*.png"))) == 2 and (tmp_path / first["picture"]).exists()


@pytest.mark.parametrize(
    "words, size", [([], 4), (["--set", "micro_batch=2"], 2), (["--batch", 3], 3), (["--seconds", 60], None)]
)
def test_groups_on_a_cpu_are_of_the_size_that_was_asked_for(cli, monkeypatch, tmp_path, words, size):
    words = [*TURBO, "--device", "cpu", "--sampler", "best-of-2", *words]
    sizes, stock = [], dx.BestOfN.search

    def seen(self, search):
        sizes.append(self.micro_batch)
        return stock(self, search)

    monkeypatch.setattr(dx.BestOfN, "search", seen)
    search(cli, tmp_path, *words)
    assert sizes == [size]


def test_a_search_with_steps_shows_what_was_dropped(cli, saved_model, tmp_path):
    said, found = search(
        cli, tmp_path, "-m", saved_model, *ARGUED, "--sampler", "ttsnap", "--n", 4, "--set", "keep=[0.5,0.5]",
        "--set", "prune_at=[1,2]", "--batch", 3,
    )  # fmt: skip
    rows = found["candidates"]
    assert sorted((row["dropped"] is not None, row["score"] is None) for row in rows) == [
        (False, False)
    ] + 3 * [(True, True)]
    assert all(row["estimates"] for row in rows) and "3 dropped on the way" in said
    sheet = Image.open(tmp_path / "candidates.png")
    assert sheet.height > 4 * 128 and sheet.width > 3 * 128


def test_methods_rewards_and_budgets(cli, saved_model, tmp_path):
    words = ["-m", saved_model, "--method", "softpag", "--set", "scale=2", "--steps", 2, "--seed", 3]
    words += ["--reward", "shapes-clip:2", "--budget", 14, "--guidance-scale", 4]
    _, found = search(cli, tmp_path, *words)
    assert [m["name"] for m in found["methods"]] == ["softpag", "best-of-n"] and found["methods"][0][
        "scale"
    ] == 2
    assert found["evaluations"] == 12 and len(found["candidates"]) == 2, (
        "six a picture: two passes and one more"
    )
    assert found["report"]["sites"], "the report of the session"
    each = found["each"]["shapes-clip"]
    assert found["score"] == pytest.approx(2 * each)


def test_iterations_of_an_optimisation(cli, tmp_path):
    said, found = search(cli, tmp_path, *TURBO, "--sampler", "reno", "--n", 3)
    assert [row["iteration"] for row in found["candidates"]] == [0, 1, 2]
    assert found["cost"] == 3 + 2 * 2 and "iteration" in said and "also backwards" in said
    assert found["score"] == max(row["score"] for row in found["candidates"])


def test_a_chain_counts_both(cli, tmp_path):
    said, found = search(cli, tmp_path, *TURBO, "--sampler", "best-of-2+reno-2")
    assert found["methods"][-1]["refine"]["iterations"] == 2
    assert found["evaluations"] == 4 and "2 candidates, 2 iterations" in said


def test_clips(cli, saved_clip_model, tmp_path):
    words = ["-m", saved_clip_model, "--sampler", "best-of-2", "--reward", "shapes-clip", "--seed", 1]
    code, _, _ = cli("search", "a red circle moves left", *words, "--out", tmp_path)
    found = json.loads((tmp_path / "search.json").read_text())
    assert code == 0 and (tmp_path / found["picture"]).suffix in (".mp4", ".gif")
    assert (tmp_path / "candidates.png").exists() and len(found["candidates"]) == 2


def test_ctrl_c_keeps_the_best_so_far_and_searches_again_next_time(cli, monkeypatch, tmp_path):
    from diffusers_ext.sampling.budget import Budget

    spend = Budget.spend

    def stopping(self, rows, gradients=0):
        spend(self, rows, gradients)
        if self.evaluations == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Budget, "spend", stopping)
    words = [*TURBO, "--sampler", "best-of-4", "--seconds", 600, "--batch", 1, "--out", tmp_path]
    code, said, err = cli("search", "a red square", *words)
    found = json.loads((tmp_path / "search.json").read_text())
    assert code == 128 + signal.SIGTERM and found["interrupted"]
    assert 1 <= len([row for row in found["candidates"] if row["score"] is not None]) < 4
    assert "the best picture so far was written" in err and "someone asked to stop" in said
    monkeypatch.undo()
    code, said, _ = cli("search", "a red square", *words)
    assert code == 0 and not json.loads((tmp_path / "search.json").read_text())["interrupted"]


@pytest.mark.parametrize(
    "words, match",
    [
        (["--sampler", "best-of"], "unknown method or sampler 'best-of'; nearest is 'best-of-n'"),
        (["--sampler", "softpag"], "--sampler takes the name of a search, got 'softpag'"),
        (["--sampler", "best-of-8", "--n", 4], "best-of-8 sets n to 8, and 4 came as a setting"),
        (["--sampler", "npnet", "--n", 4], "npnet has no number of candidates or rounds"),
        (["--n", 0], "BestOfN n must be 1 or more, got 0"),
        (["--budget", 0], "BestOfN budget must be 1 or more, got 0"),
        (["--seconds", 0], "seconds"),
        (["--budget", 1, "--steps", 2], "needs 2 evaluations for one candidate, got budget=1"),
        (["--reward", "nope"], "unknown reward 'nope'"),
        (["--reward", "shapes-clip:x"], "--reward takes NAME or NAME:WEIGHT, got 'shapes-clip:x'"),
        (["--reward", "shapes-clip:0"], "must be a finite number above 0, got 0.0"),
        (["--reward", "shapes-clip,shapes-clip"], "names each reward once"),
        (["--set", "rewards=1"], "best-of-n has no setting 'rewards'"),
        (["--set", "ttsnap.n=1"], "in use are best-of-n"),
    ],
)
def test_bad_input(refused, tmp_path, words, match):
    assert match in refused("search", "a red square", "-m", "shapes-sd-turbo", *words, "--out", tmp_path)


def test_other_models_need_a_reward_and_a_prompt_is_needed(refused, saved_model, tmp_path):
    line = refused("search", "a", "-m", saved_model, "--out", tmp_path)
    assert "a sampler chooses by a reward" in line and "--reward: shapes-clip, clip-score" in line
    assert "search needs a prompt" in refused("search", "--out", tmp_path)
