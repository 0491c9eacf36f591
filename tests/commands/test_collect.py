"""Test `diffusers-ext collect` on a tiny model."""

import json

import numpy as np
import pytest

from diffusers_ext.zoo.world.scenes import sample_spec

FEW = ["--steps", "2", "--batch", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def model(saved_model, tmp_path_factory):
    """A folder of the tiny pipeline whose call is short."""
    import shutil

    folder = shutil.copytree(saved_model, tmp_path_factory.mktemp("short") / "tiny")
    call = {"height": 64, "width": 64, "num_inference_steps": 1, "max_sequence_length": 16}
    (folder / "card.json").write_text(json.dumps({"call": call}))
    return folder


def lines(out):
    return [
        json.loads(line) for file in sorted(out.glob("*.jsonl")) for line in file.read_text().splitlines()
    ]


def test_captions_of_shapes_world_and_their_shards(cli, model, tmp_path):
    out = tmp_path / "pairs"
    words = ["collect", "--model", model, "--n", 3, "--seed", 4, "--out", out, *FEW]
    assert cli(*words, "--shard", "1/2")[1] == f"kept 1 of 1 pairs in {out}\n"
    code, said, _ = cli(*words, "--shard", "0/2")
    assert code == 0 and said == f"kept 3 of 3 pairs in {out}\n"
    captions = [sample_spec(np.random.default_rng((4, i))).caption for i in range(3)]
    assert sorted((row["index"], row["seed"], row["caption"]) for row in lines(out)) == [
        (i, 4 + i, caption) for i, caption in enumerate(captions)
    ]
    said = cli(*words, "--shard", "0/2")[1]
    assert "2 of 2 pairs were finished before" in said
    record = json.loads((out / "collect.json").read_text())
    assert record["model"] == str(model) and record["w_denoise"] == 5.5 and record["w_invert"] == 1.0


def test_prompts_of_a_file_and_a_reward(cli, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffa red circle\n\na blue star\ntwo cats\n", encoding="utf-8")
    out = tmp_path / "pairs"
    words = ["collect", "--model", model, "--prompts", tmp_path / "prompts.txt", "--n", 2, "--out", out, *FEW]
    code, said, _ = cli(*words, "--reward", "shapes-clip", "--margin", "-2")
    assert code == 0 and said == f"kept 2 of 2 pairs in {out}\n"
    assert [row["caption"] for row in lines(out)] == ["a red circle", "a blue star"]
    assert all(len(row["optimized_score_list"]) == 1 for row in lines(out))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--shard", "2/2"], "--shard takes I/N"),
        (["--shard", "half"], "--shard takes I/N"),
        (["--shard", "²/3"], "--shard takes I/N"),
        (["--n", "0"], "--n is the number of prompts"),
        (["--steps", "0"], "one step or more"),
        (["--reward", "shapes-sd"], "unknown reward 'shapes-sd'"),
        (["--prompts", "empty.txt"], "one prompt a line, 'empty.txt' has none"),
        (["--prompts", "missing.txt"], "missing.txt"),
    ],
)
def test_bad_input(refused, model, tmp_path, monkeypatch, words, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    assert match in refused("collect", "--model", model, "--out", "out", *words)
    assert not (tmp_path / "out").exists()
