"""Test what `eval --samplers` measures, writes, resumes and refuses."""

import json

import pytest

from diffusers_ext.commands import pareto

from .test_cli import files

TURBO = ["eval", "-m", "shapes-sd-turbo", "--n", 1]
MADE = ["items.jsonl", "pareto.html", "pareto.png", "pareto.svg", "pictures", "results.json", "table.md"]


def test_the_report(cli, tmp_path):
    words = [*TURBO, "--samplers", "best-of-2,softpag,reno", "--budget", "4,7", "--out", tmp_path]
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    assert files(tmp_path) == MADE
    found = json.loads((tmp_path / "results.json").read_text())
    methods = found["methods"]
    assert list(methods) == ["plain", "best-of-2", "softpag", "reno at 4", "reno at 7"]
    costs = [methods[label]["cost"]["mean"] for label in methods]
    assert costs == [1, 2, 2, 4, 7], "an iteration with gradients costs three"
    assert methods["plain"]["overall"]["n"] == 6 and found["budgets"] == [4, 7]
    rewards = [methods[label]["reward"]["mean"] for label in methods]
    assert rewards[1] >= rewards[0] and rewards[4] >= rewards[3] >= rewards[0], (
        "more is never worse by reward"
    )
    assert found["paired"]["reno at 7"]["against"] == "plain" and found["reward_names"] == "shapes-clip"
    assert len((tmp_path / "items.jsonl").read_text().splitlines()) == 1 + 5 * 6
    head = next(line for line in out.splitlines() if "evaluations" in line)
    assert "minus plain" in head and "mean reward" in head
    again = cli(*words)[1]
    assert again.count("6 of 30 images were finished before") == 5


def test_plain_pictures_are_those_of_eval(cli, tmp_path):
    cli(*TURBO, "--samplers", "plain", "--out", tmp_path / "a")
    cli(*TURBO, "--out", tmp_path / "b")
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in "ab"]
    assert found[0]["methods"]["plain"]["overall"] == found[1]["overall"]
    assert len(list((tmp_path / "a").glob("pictures/*/*.png"))) == 6


def test_a_run_that_was_cut_short_goes_on(cli, tmp_path):
    words = [*TURBO, "--samplers", "best-of-2", "--out", tmp_path]
    assert cli(*words)[0] == 0
    before = json.loads((tmp_path / "results.json").read_text())
    lines = (tmp_path / "items.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "items.jsonl").write_text("".join(lines[:-4]))
    out = cli(*words)[1]
    assert "6 of 12 images were finished before" in out and "2 of 12 images were finished before" in out
    after = json.loads((tmp_path / "results.json").read_text())
    for label in before["methods"]:
        for key in ("overall", "cost"):
            assert after["methods"][label][key] == before["methods"][label][key]
        assert after["methods"][label]["reward"]["mean"] == pytest.approx(
            before["methods"][label]["reward"]["mean"], abs=1e-4
        )


def test_other_models_with_a_reward(cli, saved_model, tmp_path):
    words = ["eval", "-m", saved_model, "--n", 1, "--steps", 2, "--samplers", "plain,ttsnap-3"]
    words += ["--set", "prune_at=[0]", "--set", "keep=[0.5]", "--reward", "shapes-clip:0.5", "--batch", 4]
    assert cli(*words, "--out", tmp_path)[0] == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["reward_names"] == "0.5 shapes-clip"
    assert found["methods"]["ttsnap-3"]["methods"][0]["keep"] == [0.5]


@pytest.mark.parametrize(
    "words, match",
    [
        (["--samplers", "plain,plain"], "each column comes once, got plain, plain"),
        (["--samplers", "best-of-8, best-of-8"], "name best-of-8 once"),
        (["--samplers", "bestofn"], "unknown method or sampler 'bestofn'; nearest is 'best-of-n'"),
        (["--samplers", ""], "at least one column is needed"),
        (["--samplers", "plain", "--method", "softpag"], "write the method as a column"),
        (["--samplers", "best-of-0"], "n must be 1 or more, got 0"),
        (["--samplers", "reno", "--budget", "0"], "--budget takes different numbers of evaluations"),
        (["--samplers", "reno", "--budget", "9,9"], "--budget takes different numbers of evaluations"),
        (["--samplers", "plain", "--reward", "none"], "unknown reward 'none'"),
        (["--budget", "9"], "--budget is for samplers"),
        (["--reward", "shapes-clip"], "--reward is for samplers"),
    ],
)
def test_bad_input(refused, tmp_path, words, match):
    assert match in refused(*TURBO, *words, "--out", tmp_path)


def test_reports_of_another_kind_are_kept(refused, saved_model, tmp_path):
    (tmp_path / "pareto.html").write_text("")
    assert "holds the results of an eval of samplers" in refused(*TURBO, "--out", tmp_path)
    (tmp_path / "pareto.html").rename(tmp_path / "gallery.html")
    assert "holds the results of an eval of methods" in refused(
        *TURBO, "--samplers", "plain", "--out", tmp_path
    )
    line = refused("eval", "-m", saved_model, "--samplers", "best-of-2", "--out", tmp_path / "other")
    assert "a sampler chooses by a reward" in line


def test_budgets():
    assert pareto.budgets(None) == [None] and pareto.budgets("240, 480") == [240, 480]
