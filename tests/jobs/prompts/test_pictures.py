"""Test that pictures are a source of prompts, ours and those of AUTOMATIC1111."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_ext.jobs.found import prompt_of
from diffusers_ext.jobs.job import Job
from diffusers_ext.jobs.prompts import overridden, read
from diffusers_ext.outputs.record import write_image

PICTURE = Image.fromarray(np.zeros((32, 48, 3), np.uint8))
RECORD = {
    "prompt": "a red circle ☂",
    "seed": 7,
    "size": [48, 32],
    "call": {"num_inference_steps": 4, "guidance_scale": 3.5, "negative_prompt": "blau", "max_area": 1536},
}
THEIRS = "a cat, best quality\nNegative prompt: blurry\n"
THEIRS += "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 99, Size: 512x768"


def theirs(path, text):
    info = PngInfo()
    info.add_text("parameters", text)
    PICTURE.save(path, pnginfo=info)


@pytest.mark.parametrize("kind", [".png", ".jpg", ".webp"])
def test_one_of_ours(tmp_path, kind):
    write_image(tmp_path / f"a{kind}", PICTURE, RECORD)
    (row,) = read(tmp_path / f"a{kind}")
    assert (row.prompt, row.seed, row.meta) == ("a red circle ☂", 7, {"picture": f"a{kind}"})
    call = {"num_inference_steps": 4, "guidance_scale": 3.5, "negative_prompt": "blau"}
    assert row.call == call | {"width": 48, "height": 32}


def test_the_record_may_be_beside(tmp_path):
    write_image(tmp_path / "a.png", PICTURE)
    (tmp_path / "a.json").write_text(json.dumps(RECORD))
    (row,) = read(tmp_path / "a.png")
    assert (row.prompt, row.seed, row.call["num_inference_steps"]) == ("a red circle ☂", 7, 4)
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "a dog"}))
    assert [row.prompt for row in read(tmp_path / "a.png")] == ["a dog"]
    theirs(tmp_path / "a.png", THEIRS)
    (row,) = read(tmp_path / "a.png")
    assert (row.prompt, row.seed) == ("a cat, best quality", 99), "the block goes before a file of a user"


@pytest.mark.parametrize("inside", ["record", "block", "nothing"])
def test_every_reader_finds_the_same_prompt(cli, tmp_path, inside):
    path, ours = tmp_path / "a.png", RECORD | {"prompt": "a dog"}
    if inside == "block":
        theirs(path, THEIRS)
    else:
        write_image(path, PICTURE, RECORD if inside == "record" else None)
    (tmp_path / "a.json").write_text(json.dumps(ours))
    wanted = "a red circle ☂" if inside == "record" else "a dog"
    assert [row.prompt for row in read(path)] == [prompt_of(path)] == [wanted]
    assert json.loads(cli("show", path, "--json")[1])["prompt"] == wanted


def test_a_folder_of_both_in_the_order_of_names(tmp_path):
    write_image(tmp_path / "b.png", PICTURE, RECORD)
    theirs(tmp_path / "a.png", THEIRS)
    (tmp_path / "b.json").write_text("{}")
    first, second = read(tmp_path)
    assert (first.index, first.prompt, first.seed) == (0, "a cat, best quality", 99)
    call = {"num_inference_steps": 20, "guidance_scale": 7.0, "negative_prompt": "blurry"}
    assert first.call == call | {"width": 512, "height": 768}
    assert (second.index, second.prompt) == (1, "a red circle ☂")


def test_settings_can_be_overridden(tmp_path):
    theirs(tmp_path / "a.png", THEIRS)
    (row,) = overridden(read(tmp_path / "a.png"), {"num_inference_steps": 4})
    assert row.call["num_inference_steps"] == 4 and row.call["guidance_scale"] == 7.0 and row.seed == 99
    (row,) = overridden(read(tmp_path / "a.png"), {}, seeds=False)
    assert row.seed is None and row.call["num_inference_steps"] == 20


def test_a_job_makes_pictures_again_with_other_settings(tmp_path):
    for name, seed in (("a.png", 7), ("b.png", 8)):
        write_image(tmp_path / name, PICTURE, RECORD | {"seed": seed})
    for more, seeds in (("", [7, 8]), ('seeds = "0-1"\n', [0, 1, 0, 1]), ("seeds = [0]\n", [0, 0])):
        job = tmp_path / "job.toml"
        job.write_text(f'[prompts]\nfile = "."\noverride = true\n{more}[call]\nnum_inference_steps = 9\n')
        read_job = Job.read(job)
        rows = list(read_job.rows())
        assert [row.call["num_inference_steps"] for row in rows] == [9, 9]
        found = [seed for row in rows for seed in ((row.seed,) if row.seed is not None else read_job.seeds)]
        assert found == seeds


def test_pictures_that_say_nothing_are_named_and_can_be_skipped(tmp_path, refused):
    PICTURE.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    write_image(tmp_path / "c.png", PICTURE, {"prompt": "a"})
    theirs(tmp_path / "d.png", THEIRS)
    theirs(tmp_path / "e.png", "a dog\nSteps: many, CFG scale: 7, Seed: 99")
    assert "picture a.png cannot be used: it has no settings inside" in refused(tmp_path)
    with pytest.warns(UserWarning, match="4 of 5 rows"):
        (row,) = read(tmp_path, skip_bad=True)
    assert row.index == 3
    assert "its record has no call; it was changed" in refused(tmp_path / "c.png")
    assert "picture e.png is wrong: steps takes a whole number, got 'many'" in refused(tmp_path / "e.png")


def test_a_folder_without_pictures(tmp_path, refused):
    assert "the folder of" in refused(tmp_path) and "has no prompts" in refused(tmp_path, format="pictures")
