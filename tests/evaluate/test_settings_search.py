import json

import pytest

from diffusers_ext.commands.tune import tune
from diffusers_ext.evaluate.settings_search import assignments, best, halves
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.presets import preset
from diffusers_ext.zoo.world.suites import IMAGE_TASKS, VIDEO_TASKS


def test_every_combination_comes_once():
    found = assignments(["scale=[1, 2]", 'heads=[null, {"a": [0]}]'])
    assert len(set(found)) == 4
    assert ("scale=2", 'heads={"a": [0]}') in found
    assert assignments([]) == [()]


@pytest.mark.parametrize("text", ["scale=1", "scale", "=[1]", "scale=[]", "scale=[1"])
def test_bad_grids(text):
    with pytest.raises(ValueError, match=r"--grid takes key=\[value"):
        assignments([text])


def test_the_first_of_equals_wins():
    tried = [{"overall": {"accuracy": a}, "k": k} for k, a in enumerate([0.2, 0.5, 0.5])]
    assert best(tried)["k"] == 1


def test_the_file_is_a_preset(saved_model, tmp_path):
    tune(str(saved_model), grid=["scale=[1.0, 2.0]"], n=1, steps=1, device="cpu", out=tmp_path)
    found = json.loads((tmp_path / "softpag.json").read_text())
    assert [t["settings"]["scale"] for t in found["tried"]] == [1.0, 2.0]
    assert found["found_on"]["suite"] == "tuning" and found["overall"]["n"] == 6
    method = preset(str(tmp_path), "softpag")
    assert method.scale == found["settings"]["scale"] == 1.0


def test_the_best_is_confirmed_on_prompts_that_had_no_part_in_the_choice(saved_model, tmp_path, capsys):
    tune(str(saved_model), grid=["scale=[1.0, 2.0]"], n=1, confirm=2, steps=1, device="cpu", out=tmp_path)
    found = json.loads((tmp_path / "softpag.json").read_text())
    assert found["overall"]["n"] == 6 and found["confirmed"]["paired"]["n"] == 12
    assert found["confirmed"]["n"] == 2 and found["confirmed"]["plain"]["n"] == 12
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()[1:]]
    asked = {scale: set() for scale in (None, 1.0, 2.0)}
    for line in lines:
        (scale,) = [m["scale"] for m in json.loads(line["variant"])] or [None]
        asked[scale].add((line["prompt"], line["seed"]))
    assert asked[None] == asked[1.0] and len(asked[1.0]) == 18 and len(asked[2.0]) == 6
    assert asked[2.0] < asked[1.0], "the loser is not asked again"
    assert "on 12 other prompts: 0 points" in capsys.readouterr().out


def test_halves_are_taken_task_by_task():
    asked = questions("tuning", 5, 3)
    first, others = halves(asked, 2)
    assert first == questions("tuning", 2, 3) and len(others) == 3 * len(IMAGE_TASKS)
    assert {*first, *others} == {*asked} and not {*first} & {*others}


def test_a_model_is_asked_its_own_tasks(saved_clip_model, tmp_path):
    tune(str(saved_clip_model), grid=["scale=[1.0]"], n=1, steps=1, device="cpu", out=tmp_path)
    lines = (tmp_path / "items.jsonl").read_text().splitlines()[1:]
    assert {json.loads(line)["task"] for line in lines} == set(VIDEO_TASKS)
