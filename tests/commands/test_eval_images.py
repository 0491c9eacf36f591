"""Test `eval --images`: pictures on the disk are scored as those that are made."""

import json

import pytest
from PIL import Image

from diffusers_ext.evaluate.score import judge, summarise
from diffusers_ext.jobs.layouts import LAYOUTS, prepare
from diffusers_ext.jobs.rows import Row
from diffusers_ext.outputs.record import write_image
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

PROMPTS = [
    "a red circle",
    "two blue stars",
    "a green cross above a pink star",
    "a red square and a blue cross",
] * 3
DRAWN = [*PROMPTS[:6], *["a pink circle"] * 4, *PROMPTS[10:]]  # four are wrong


def folder(root, name):
    """Write rendered pictures in a layout, some of them wrong."""
    which = LAYOUTS[name]
    suffix = which.suffix or ".png"
    for i, (prompt, drawn) in enumerate(zip(PROMPTS, DRAWN, strict=True)):
        facts = {"tag": "x", "include": [{"class": "x", "count": 1}], "prompt": prompt}
        row = Row(i, prompt, meta={"geneval": facts, "category": "c", "style": "photo", "number": i})
        root.mkdir(exist_ok=True)
        prepare(root, which, row, suffix)
        record = None if name in ("geneval", "t2i-compbench") else {"prompt": prompt}
        write_image(root / which.path(row, 0, suffix), Image.fromarray(draw(parse(drawn), i)), record)
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_scored_like_pictures_that_are_made(cli, tmp_path, name):
    root = folder(tmp_path / "pictures", name)
    code, said, err = cli("eval", "--images", root, "--layout", name, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    pairs = zip(PROMPTS, DRAWN, strict=True)
    judged = [judge(Image.fromarray(draw(parse(d), i)), p, i) for i, (p, d) in enumerate(pairs)]
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {key: found[key] for key in ("tasks", "overall")} == json.loads(json.dumps(summarise(judged)))
    assert found["overall"]["n"] == 12 and found["overall"]["accuracy"] == pytest.approx(8 / 12)
    assert [row["correct"] for row in found["pictures"]] == [j.correct for j in judged]
    assert (root / found["pictures"][0]["file"]).is_file()
    lines = said.splitlines()
    assert lines[0].split() == ["task", "pictures", "right"]
    assert lines[-2].split()[:4] == ["overall", "12", "67", "%"]
    assert lines[-1] == f"wrote {tmp_path}/out/scores.json"


def test_pictures_of_elsewhere_are_counted_apart(cli, refused, tmp_path):
    root = folder(tmp_path / "pictures", "flat")
    write_image(root / "x.png", Image.new("RGB", (64, 64)), {"prompt": "a cat"})
    code, said, _ = cli("eval", "--images", root, "--out", tmp_path / "out")
    assert (
        code == 0
        and "1 of 13 pictures are not counted: no ground truth: the prompt is not in the grammar" in said
    )
    (tmp_path / "other").mkdir()
    write_image(tmp_path / "other" / "x.png", Image.new("RGB", (64, 64)), {"prompt": "a cat"})
    line = refused("eval", "--images", tmp_path / "other", "--out", tmp_path / "none")
    assert "none of the 1 in" in line and not (tmp_path / "none").exists()


def test_bad_input_is_one_line(refused, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    for words, said in (
        (["--images", tmp_path / "none"], "there is no folder of pictures"),
        (["--images", tmp_path], "has no pictures in the layout flat"),
        (["--images", tmp_path / "a"], "is empty"),
        (["--images", tmp_path, "--layout", "gen"], "unknown layout 'gen'; the layouts are flat, geneval"),
        (["--layout", "geneval"], "--layout is for --images"),
        (["--images", tmp_path, "--method", "softpag"], "--method is for making pictures"),
        (["--images", tmp_path, "--set", "a=1"], "--set is for making pictures"),
        (["--images", tmp_path, "--n", 3], "--n is for making pictures"),
    ):
        assert said in refused("eval", *words, "--out", tmp_path / "out")
