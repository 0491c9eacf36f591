"""The command line of HeadHunter: what it writes, how it goes on, and what it refuses."""

import json
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import diffusers_ext as dx

FEW = ("--steps", 1, "--pairs", 2, "--top-k", 2, "--reward", "shapes-clip")


def hunt(model, out, *more):
    return ["headhunter", "--model", model, "--out", out, *FEW, *more]


def test_it_writes_heads_map_and_log_and_goes_on(cli, saved_model, tmp_path):
    code, said, _ = cli(*hunt(saved_model, tmp_path, "--suite", "tuning"))
    assert code == 0 and "over plain" in said and f"--set heads={tmp_path / 'heads.json'}" in said
    heads = dx.HeadSet.load(tmp_path / "heads.json")
    assert len(heads.picks) == 2 and heads.found["pairs"] == 2 and heads.settings["strength"] == 0.25
    assert Image.open(tmp_path / "heads.png").size[0] > 300
    log = (tmp_path / "log.jsonl").read_text()
    assert len(log.splitlines()) == 1 + heads.found["pictures"] == 1 + 2 * 13
    assert cli(*hunt(saved_model, tmp_path, "--suite", "tuning"))[1] == said
    assert (tmp_path / "log.jsonl").read_text() == log
    code, said, err = cli(
        *("generate", "a red circle", "--model", saved_model, "--steps", 1, "--out", tmp_path / "pictures"),
        *("--method", "softpag", "--set", f"heads={tmp_path / 'heads.json'}", "--set", "scale=3"),
    )
    assert code == 0, err
    (record,) = (json.loads(f.read_text()) for f in (tmp_path / "pictures").glob("*.json"))
    assert record["methods"][0]["heads"] == {path: heads[path] for path in heads}


def test_prompts_styles_and_the_cheaper_search(cli, saved_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\n\na cat\n")
    more = ["--prompts", tmp_path / "prompts.txt", "--style", "watercolour", "--rounds", 2, "--fast"]
    code, _, err = cli(*hunt(saved_model, tmp_path / "out", *more, "--layer", "transformer_blocks.1"))
    assert code == 0, err
    first = json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[0])
    assert first["pairs"] == [["watercolour, a dog", 0], ["watercolour, a cat", 1]]
    assert first["settings"]["strength"] == 1.0 and first["heads"] == 4
    assert first["search"] == "FastHeadHunter"
    heads = dx.HeadSet.load(tmp_path / "out" / "heads.json")
    assert [p.round for p in heads.picks] == [1, 1, 2, 2]


def test_parts_are_joined(cli, saved_model, tmp_path):
    prompt = ["--prompt", "a red circle"]
    cli(*hunt(saved_model, tmp_path / "alone", *prompt))
    said = [cli(*hunt(saved_model, tmp_path / "parts", *prompt, "--shard", f"{i}/2"))[1] for i in range(2)]
    assert "parts of others are missing" in said[0] and "over plain" in said[1]
    alone, joined = (dx.HeadSet.load(tmp_path / name / "heads.json") for name in ("alone", "parts"))
    assert alone.picks == joined.picks


@pytest.mark.slow
def test_a_request_to_stop_keeps_the_log(saved_model, tmp_path):
    words = hunt(saved_model, tmp_path, "--suite", "tuning", "--pairs", 400, "--batch", 1)
    run = subprocess.Popen(
        [sys.executable, "-m", "diffusers_ext", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "log.jsonl"
    while run.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 2):
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert "the same command goes on" in run.stderr.read().splitlines()[-1]
    assert log.read_text().endswith("\n") and not (tmp_path / "heads.json").exists()


REFUSED = [
    (["--pairs", 0], "pairs must be 1 or more, got 0"),
    (["--top-k", 99], "only 12 are tried; set top_k to 12"),
    (["--set", "scale=high"], "softpag.scale takes a number"),
    (["--set", "heads={}"], "heads"),
    (["--set", "speed=1"], "softpag has no setting 'speed'"),
    (["--shard", "2/2"], "--shard takes I/N"),
    (["--style", " "], "--style takes the words of a style"),
    (["--prompt", "a", "--suite", "tuning"], "from one place, got --prompt and --suite"),
    (["--prompts", "none.txt"], "'none.txt' cannot be read (No such file or directory)"),
    (["--suite", "none"], "unknown suite 'none'"),
    (["--layer", "blocks.7"], "found no attention module in 'blocks.7'"),
    (["--seed", "-1"], "a seed must be a whole number"),
    ([], "headhunter needs prompts for"),
]


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=lambda value: " ".join(map(str, value))[:20])
def test_bad_input_is_refused_in_a_sentence(refused, saved_model, tmp_path, words, why):
    prompt = ["--suite", "tuning"] if words and not {"--prompt", "--prompts", "--suite"} & set(words) else []
    assert why in refused(*hunt(saved_model, tmp_path, *prompt, *words))
    assert not (tmp_path / "heads.json").exists()
