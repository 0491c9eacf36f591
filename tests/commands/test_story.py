"""Test what `story` writes, repeats and refuses, and that other commands point to it."""

import json

import pytest
from PIL import Image

from diffusers_ext.outputs.record import read

from .test_cli import files

OPTIONS = ["--subject", "ann=a red circle", "--subject", "ben=a blue star", "--steps", 2, "--seed", 3]
TOML = """
seed = 4
scenes = ["ann", {prompt = "a red circle and a blue star", subjects = {ann = "circle"}}]
[subjects]
ann = "a red circle"
[method]
cross_lambda = 0.4
"""


def test_a_story_is_written_once(cli, tmp_path):
    words = ["story", *OPTIONS, "--scene", "ann and ben", "--scene", "a green square", "--out", tmp_path]
    words += ["--masks", "attention"]
    code, said, err = cli(*words)
    assert (code, err) == (0, "warning: scene 2 ('a green square') names none of ann, ben, so it is plain\n")
    assert f"wrote story.png and story.json in {tmp_path}" in said
    names = ["reference-ann", "reference-ben", "scene-01", "scene-01-plain", "scene-02", "scene-02-plain"]
    assert files(tmp_path) == sorted([*(f"{name}.png" for name in names), "story.json", "story.png"])
    found = json.loads((tmp_path / "story.json").read_text())
    assert [row["prompt"] for row in found["panels"]] == ["a red circle and a blue star", "a green square"]
    assert [row["seed"] for row in found["panels"]] == [3, 4]
    assert [row["subjects"] for row in found["panels"]] == [["ann", "ben"], []]
    assert found["cache_gib"] > 0 and found["asked"]["masks"] == "attention"
    record = read(tmp_path / "scene-01.png")
    assert record["prompt"] == "a red circle and a blue star"
    assert record["methods"][0]["name"] == "ir-diffusion" and record["verdict"]["reason"]
    assert read(tmp_path / "scene-01-plain.png")["methods"] == []
    same = [(tmp_path / f"scene-02{end}.png").stat().st_size > 0 for end in ("", "-plain")]
    assert all(same) and Image.open(tmp_path / "story.png").width > 400
    assert "finished before" in cli(*words)[1]
    (tmp_path / "scene-02-plain.png").unlink()
    assert "finished before" not in cli(*words)[1] and (tmp_path / "scene-02-plain.png").is_file()
    assert found["asked"]["methods"][0]["start"] == 0.8, "that of the preset"
    code, _, err = cli(*words, "--set", "cross_lambda=0.2", "--no-preset")
    assert code == 0 and "held another story, whose pictures of the same names are replaced" in err
    method = json.loads((tmp_path / "story.json").read_text())["asked"]["methods"][0]
    assert (method["cross_lambda"], method["start"]) == (0.2, 0.0)


def test_a_story_from_a_file(cli, tmp_path):
    path = tmp_path / "tale.toml"
    path.write_text(TOML)
    words = ["--steps", 2, "--masks", "attention", "--cache", "off", "--out", tmp_path / "out"]
    code, _, err = cli("story", path, *words, "--scene", "a cross")
    assert code == 0 and "scene 3 ('a cross') names none of ann" in err
    found = json.loads((tmp_path / "out" / "story.json").read_text())
    assert found["asked"]["seed"] == 4 and found["asked"]["methods"][0]["cross_lambda"] == 0.4
    assert [row["prompt"] for row in found["panels"]] == [
        "a red circle",
        "a red circle and a blue star",
        "a cross",
    ]
    assert [row["subjects"] for row in found["panels"]] == [["ann"], ["ann"], []]


@pytest.mark.parametrize(
    "toml, said",
    [
        ("subjects = 3", "subjects is a table of names and texts, got 3"),
        ("scene = ['x']", "the keys of a story are seed, subjects, scenes, method, got 'scene'"),
        ("scenes = 'x'", "scenes is a list of texts, got 'x'"),
        ("[", "is not TOML"),
        (TOML.replace("4\n", "'x'\n", 1), "seed is a whole number, got 'x'"),
        (TOML.replace("cross_lambda", "cross_lamda"), "cross_lambda"),
        (TOML.replace("cross_lambda = 0.4", "scene_masks = []"), "a story finds scene_masks by itself"),
        (TOML.replace("0.4", "4.0"), "cross_lambda must be from 0.0 to 1.0, got 4.0"),
        (TOML.replace("{ann =", "{carl ="), "got 'carl'"),
        (TOML.replace("prompt =", "text ="), "a scene is a text, or a table of its prompt"),
    ],
)
def test_files_that_do_not_fit(refused, tmp_path, toml, said):
    path = tmp_path / "tale.toml"
    path.write_text(toml)
    assert said in refused("story", path, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "a story has subjects and scenes, got 0 and 0"),
        (["nope.toml"], "the story 'nope.toml' cannot be read (No such file or directory)"),
        (["--subject", "a red circle", "--scene", "x"], "--subject takes NAME=TEXT, got 'a red circle'"),
        (["--subject", "ann=a red circle"], "got 1 and 0"),
        ([*OPTIONS, "--scene", ""], "a scene is a text that is not empty"),
        (
            [*OPTIONS, "--scene", "ann", "--masks", "magic"],
            "--masks is auto, attention or detector, got 'magic'",
        ),
        ([*OPTIONS, "--scene", "ann", "--cache", "disk"], "on device, cpu or off, got cache='disk'"),
        (
            [*OPTIONS, "--scene", "ann", "--masks", "attention", "--cache-limit-gib", 0],
            "and cache_limit_gib allows 0;",
        ),
        ([*OPTIONS, "--scene", "ann", "-m", "shapes-wan"], "a story is made of pictures"),
        ([*OPTIONS, "--scene", "ann", "-m", "shapes-sd3", "--masks", "attention"], "give a segmenter"),
        ([*OPTIONS, "--scene", "ann", "--set", "scene_masks=[]"], "a story finds scene_masks by itself"),
        (
            ["--subject", "ann=a cat", "--scene", "ann", "--masks", "detector"],
            "finds single objects of shapes world such as 'a red circle', got 'a cat'; use --masks attention",
        ),
        (["nowhere.toml"], "nowhere.toml"),
    ],
)
def test_options_that_do_not_fit(cli, tmp_path, words, said):
    code, _, err = cli("story", *words, "--out", tmp_path)
    assert code == 2 and said in err and err.count("\n") == 1, err


BOXES = ["--set", "reference_masks=[[0,0,1,1]]", "--set", "scene_masks=[[0,0,1,1]]"]


@pytest.mark.parametrize(
    "command, more", [("generate", []), ("generate", BOXES), ("compare", BOXES), ("search", BOXES)]
)
def test_commands_of_one_prompt_point_to_story(cli, tmp_path, command, more):
    words = ["--methods", "ir-diffusion"] if command == "compare" else ["--method", "ir-diffusion"]
    code, _, err = cli(command, "a red circle", *words, *more, "--steps", 2, "--out", tmp_path)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and "diffusers-ext story" in errors[0], err
