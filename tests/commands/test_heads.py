"""`diffusers-ext heads`: its files, what it says, and what it refuses before it says or makes anything."""

import json

import pytest

PROMPT = "a red circle"
FAST = ["--steps", 2, "--seed", 0, "--layers", "mid_block"]  # two steps have a sheet of steps


def files(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_both_parts(cli, tmp_path):
    code, out, err = cli("heads", PROMPT, *FAST, "--words", "circle", "--per-head", "--out", tmp_path)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0] == "1 picture for maps of 1 word at 2 steps in 1 layer"
    assert lines[1] == "4 pictures for 3 heads in 1 layer, all but the first with one more pass a step"
    wanted = {"maps.png", "maps-steps.png", "maps-heads.png", "maps.html", "maps.json", "heads.html"}
    wanted |= {"heads.json", "heads-unet.mid_block.attentions.0.transformer_blocks.0.attn1.png"}
    assert files(tmp_path) == wanted and all(str(tmp_path / name) in lines for name in wanted)
    assert lines[-1].startswith("change ")
    for name in ("maps.json", "heads.json"):
        record = json.loads((tmp_path / name).read_text())
        assert record["model"] == "shapes-sd" and record["prompt"] == PROMPT and record["seed"] == 0
    _, _, err = cli("heads", "--prompt", PROMPT, *FAST, "--maps-only", "--out", tmp_path)
    assert err.startswith("warning:") and "held another exploration" in err


def test_a_part_alone(cli, tmp_path):
    cli("heads", PROMPT, *FAST, "--maps-only", "--map-steps", "1", "--out", tmp_path / "maps")
    assert files(tmp_path / "maps") == {"maps.png", "maps.html", "maps.json"}
    cli("heads", PROMPT, *FAST, "--heads-only", "--heads", "0,2", "--out", tmp_path / "heads")
    record = json.loads((tmp_path / "heads" / "heads.json").read_text())
    assert [each["head"] for each in record["heads"]] == [0, 2]


def test_layers_of_one_kind(cli, tmp_path):
    few = ["--steps", 1, "--seed", 0]
    _, out, _ = cli("heads", PROMPT, *few, "--layers", "mid_block*attn1", "--out", tmp_path / "self")
    assert "no maps of words, since these layers read no text" in out
    _, out, _ = cli("heads", PROMPT, *few, "--layers", "mid_block*attn2", "--out", tmp_path / "cross")
    assert "no pictures of heads, since these layers are cross-attention" in out


def test_a_clip(cli, saved_clip_model, tmp_path):
    code, _, err = cli(
        "heads", "a red", "--model", saved_clip_model, "--seed", 1, "--layers", "blocks.1", "--out", tmp_path
    )
    assert code == 0 and {"maps.html", "heads.html"} <= files(tmp_path), err


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["--layers", "mid_blok"],
            "is named 'mid_blok'; the nearest names are mid_block,",
        ),
        (["--words", "dog"], "'dog' is not in 'a red circle'"),
        (["--map-steps", "0,99"], "this run has 15, got 99; the last is 14"),
        (["--map-steps", "x"], "--map-steps takes whole numbers with commas between them, got 'x'"),
        (["--heads", "7"], "have heads 0 to 2, got 7"),
        (["--batch", "0"], "a batch is 1 or more"),
        (["--strength", "2"], "strength must lie in [0, 1], got 2.0"),
        (["--most", "3"], "takes 19 pictures, and at most 3 heads are drawn"),
        (["--maps-only", "--heads-only"], "leave nothing to make"),
        (["--heads-only", "--layers", "*attn2"], "is cross-attention; name others"),
        (["--seed", "x"], "a seed must be a whole number"),
    ],
)
def test_refused(refused, tmp_path, words, said):
    assert said in refused("heads", PROMPT, "--out", tmp_path, *words)
    assert not files(tmp_path)


def test_no_prompt(refused):
    assert "heads needs a prompt, got none" in refused("heads")
