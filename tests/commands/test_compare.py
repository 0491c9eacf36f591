"""Test what `compare`, `eval` and `demo` write, resume and refuse."""

import json
import shutil

import pytest
from PIL import Image

from diffusers_ext.commands import demo
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.zoo.world.suites import IMAGE_TASKS

from .test_cli import CALL, files


def test_compare(cli, saved_model, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbftwo blue stars\r\n\r\na cat\r\n")
    words = ["--methods", "plain,softpag", "--seeds", "0,1", "--prompts-file", tmp_path / "prompts.txt"]
    code, out, err = cli(
        "compare", "a red square", "-m", saved_model, *CALL, *words, "--out", tmp_path / "out"
    )
    assert (code, err) == (0, "")
    assert files(tmp_path / "out") == ["compare.png", "pictures", "report.html", "results.json"]
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    items = [(p, s) for p in ("a red square", "two blue stars", "a cat") for s in (0, 1)]
    for label in ("plain", "softpag"):
        images = found["methods"][label]["images"]
        assert [(i["prompt"], i["seed"]) for i in images] == items
        assert found["methods"][label]["overall"]["n"] == 4
    assert found["paired"]["softpag"]["overall"]["n"] == 4
    assert "softpag minus plain: 0 wins, 0 losses of 4" in out and "0 of 4 right" in out and "%" not in out


@pytest.mark.parametrize(
    "words, match",
    [
        ([], "compare needs a prompt, got none"),
        (["a", "--seeds", "0,0"], "--seeds takes different whole numbers"),
        (["a", "--seeds", "0,x"], "a seed must be a whole number"),
        (["a", "--methods", "plain,plain"], "each column comes once, got plain, plain"),
        (["a", "--methods", "plain,other"], "unknown method or sampler 'other'"),
        (["a", "--prompts-file", "/nope"], "cannot read the prompts file '/nope'"),
    ],
)
def test_compare_bad_input(refused, saved_model, tmp_path, words, match):
    assert match in refused("compare", *words, "-m", saved_model, *CALL, "--out", tmp_path)


def test_eval_resumes_and_refuses_other_weights(cli, refused, saved_model, tmp_path):
    words = ["eval", "--suite", "held-out", *CALL, "--out", tmp_path, "--n"]
    code, out, err = cli(*words, 1, "-m", saved_model)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())
    assert tuple(found["tasks"]) == IMAGE_TASKS
    assert found["tasks"]["color_attr"].pop("swapped") in (0, 1)
    assert all(set(t) == {"accuracy", "low", "high", "n"} and t["n"] == 1 for t in found["tasks"].values())
    assert found["overall"]["n"] == 6 and "paired" not in found
    assert out.splitlines()[-2].startswith("overall")
    code, out, err = cli(*words, 2, "-m", saved_model, "--method", "softpag", "--set", "scale=2")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["methods"][0]["scale"] == 2.0 and found["paired"]["overall"]["n"] == 12
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 12 + 12, "the six pictures of the first run were not made again"
    assert len(list(tmp_path.glob("pictures/*/*.png"))) == 12 + 12
    assert "| overall | 12 |" in (tmp_path / "table.md").read_text()
    assert {"accuracy.png", "accuracy.svg"} < {p.name for p in tmp_path.iterdir()}
    assert "Losses: softpag is wrong" in (tmp_path / "gallery.html").read_text()
    from tests.tiny_models import sd3

    sd3.pipeline(sample_size=32, qk_norm="rms_norm").save_pretrained(tmp_path / "other")
    assert "results with different weights" in refused(*words, 1, "-m", tmp_path / "other")


def test_eval_refuses_the_same_weights_under_other_configs(cli, refused, saved_model, tmp_path):
    words = ["eval", *CALL, "--n", 1, "--out", tmp_path / "out", "-m"]
    other = shutil.copytree(saved_model, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift": 6.0}))
    assert cli(*words, saved_model)[0] == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert "results with different configs" in refused(*words, other)
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_eval_and_compare_do_not_overwrite_each_other(cli, refused, saved_model, tmp_path):
    evaluate = ["eval", "-m", saved_model, *CALL, "--n", 1, "--out"]
    compare = ["compare", "a red square", "-m", saved_model, *CALL, "--out"]
    for first, second, words in (
        (evaluate, compare, "holds the results of an eval (items.jsonl)"),
        (compare, evaluate, "holds the results of a comparison (report.html)"),
    ):
        folder = tmp_path / first[0]
        assert cli(*first, folder)[0] == 0
        before = (folder / "results.json").read_bytes()
        line = refused(*second, folder)
        assert words in line and "choose another --out" in line
        assert (folder / "results.json").read_bytes() == before


def test_what_is_refused_leaves_no_folder(refused, saved_model, tmp_path):
    out = ["-m", saved_model, "--out", tmp_path / "new"]
    assert "unknown method 'plain'" in refused("eval", *out, "--method", "plain")
    assert "unknown method or sampler 'other'" in refused("compare", "a", *out, "--methods", "plain,other")
    assert "unknown method 'other'" in refused("generate", "a", *out, "--method", "other")
    assert not list(tmp_path.iterdir())


def test_a_method_is_named_once(refused, saved_model, tmp_path):
    twice = ["--method", "softpag", "--method", "softpag"]
    out = ["-m", saved_model, *CALL, "--out", tmp_path / "new"]
    words = "a method is applied once, got softpag, softpag; name softpag once"
    assert words in refused("eval", "--n", 1, *out, *twice)
    assert words in refused("generate", "a", *out, *twice)
    words = "a column has each name once, got 'softpag+softpag'; name softpag once"
    assert words in refused("compare", "a", *out, "--methods", "plain,softpag+softpag")
    assert not list(tmp_path.iterdir())


FOLDERS = [["compare", "a"], ["eval"], ["train", "shapes-vae"]]  # write a folder; generate also a file


@pytest.mark.parametrize(
    "command, name, words",
    [(c, "", "--out takes the name of a folder, got ''") for c in (["generate", "a"], *FOLDERS)]
    + [(c, "foo.png", "names a folder here, got") for c in FOLDERS],
)
def test_names_of_no_folder(refused, saved_model, tmp_path, monkeypatch, command, name, words):
    monkeypatch.chdir(tmp_path)
    model = [] if command[0] == "train" else ["-m", saved_model]
    assert words in refused(*command, *model, "--out", name)
    assert not list(tmp_path.iterdir())


def test_eval_bad_input(refused, saved_model, tmp_path):
    base = ["eval", "-m", saved_model, *CALL, "--out", tmp_path]
    assert "unknown suite 'test'; the suites are train-like, held-out, tuning" in refused(
        *base, "--suite", "test"
    )
    assert "got 0" in refused(*base, "--n", 0)
    assert "unknown method 'nope'; nearest is 'softpag', the methods are" in refused(
        *base, "--method", "nope"
    )
    unfit = refused(*base, "--n", 1, "--method", "radial", "--set", "dense_steps=0")
    assert "Radial thins out frames and needs two or more" in unfit
    assert not list(tmp_path.iterdir()), "what is refused makes no pictures and claims no folder"


def test_compare_with_searches(cli, saved_model, tmp_path):
    words = ["compare", "a red square", "two blue stars", "-m", saved_model, *CALL, "--batch", 2]
    words += ["--samplers", "best-of-2,softpag+best-of-2", "--reward", "shapes-clip", "--set", "scale=2"]
    code, out, err = cli(*words, "--out", tmp_path)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())["methods"]
    assert list(found) == ["plain", "best-of-2", "softpag+best-of-2"]
    one = found["plain"]["cost"]["mean"]
    assert found["best-of-2"]["cost"]["mean"] == 2 * one < found["softpag+best-of-2"]["cost"]["mean"]
    assert found["best-of-2"]["reward"]["mean"] >= found["plain"]["reward"]["mean"]
    assert [m["name"] for m in found["softpag+best-of-2"]["methods"]] == ["softpag", "best-of-n"]
    assert found["softpag+best-of-2"]["methods"][0]["scale"] == 2
    assert f"{2 * one:.0f} evaluations and" in out
    page = (tmp_path / "report.html").read_text()
    assert "<th>evaluations</th><th>mean reward</th>" in page and "; reward " in page
    again = cli(*words, "--out", tmp_path)[1]
    assert again.count("2 of 6 images were finished before") == 3


@pytest.mark.parametrize(
    "words, match",
    [
        (["--samplers", "plain"], "each column comes once, got plain, plain"),
        (["--reward", "shapes-clip"], "--reward is for samplers"),
        (["--samplers", "best-of-2"], "a sampler chooses by a reward"),
        (["--samplers", "bestof2"], "nearest is 'best-of-n'"),
    ],
)
def test_bad_searches(refused, saved_model, tmp_path, words, match):
    assert match in refused("compare", "a", "-m", saved_model, *CALL, *words, "--out", tmp_path)


def test_demo_prompts_are_the_first_of_the_suite():
    asked = [q.item.prompt for q in questions(demo.SUITE, 2) if q.task != "color_attr"]
    assert list(demo.PROMPTS) == asked and len(asked) == 10 and "Ten pictures" in demo.NOTE


def test_demo(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "PROMPTS", demo.PROMPTS[:2])
    code, out, err = cli("demo", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert files(tmp_path) == ["compare.png", "pictures", "report.html", "results.json"]
    found = json.loads((tmp_path / "results.json").read_text())["methods"]
    assert list(found) == demo.COLUMNS.split(",")
    assert [i["prompt"] for i in found["plain"]["images"]] == list(demo.PROMPTS)
    assert found["plain"]["cost"]["mean"] == 30 and found["best-of-8"]["cost"]["mean"] == 240
    assert demo.NOTE in out and "best-of-8 minus plain" in out
    with Image.open(tmp_path / "compare.png") as picture:
        assert 500 < picture.width < 650, "a column for each of two prompts"
