"""The maps of words of the page, which are made by a job and then read from disk."""

import numpy as np
import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.app import maps_make
from diffusers_ext.app.asked import Asked
from diffusers_ext.app.engine import Done, Engine, Refused
from diffusers_ext.app.models import Models
from diffusers_ext.errors import MethodError
from diffusers_ext.explore import maps
from diffusers_ext.outputs import record

PROMPT = "a red circle and a blue square"


@pytest.fixture(scope="module")
def engine():
    return Engine(Models())


def asked(model="shapes-sd", prompt=PROMPT, steps=2):
    return Asked.of({"prompt": prompt, "model": model, "seed": 3, "call": {"num_inference_steps": steps}})


def made(engine, folder, asked, words=""):
    jobs = engine.run("a", lambda control, place: maps_make.make(control, place, asked, words, folder))
    *shown, last = jobs
    assert isinstance(last, Done)
    return last.result, shown


@pytest.fixture(scope="module")
def mapped(engine, tmp_path_factory):
    return made(engine, tmp_path_factory.mktemp("maps"), asked())[0]


@pytest.fixture(scope="module")
def direct():
    pipe = dx.load("shapes-sd")
    return maps(pipe, PROMPT, seed=3, num_inference_steps=2, guidance_scale=4.0, height=64, width=64)


def test_maps_on_disk_are_those_of_the_library(mapped, direct):
    found = mapped.kept.read()
    assert found.layers == direct.layers and found.steps == direct.steps
    assert [w.label for w in found.words] == mapped.kept.labels == [w.label for w in direct.words]
    for layer in found.layers:
        assert torch.equal(found.data[layer], direct.data[layer])
    assert np.array_equal(np.asarray(found.image), np.asarray(direct.image))


def test_a_drawing_is_of_the_word_the_step_and_the_layer(mapped, direct):
    layer = mapped.kept.layers[-1]
    drawn, text = maps_make.draw(mapped.kept, "blue square", 2, layer)
    values = direct.map("blue square", step=1, layer=layer)
    assert f"{float(values.max()):.3g}" in text and "step 2 of 2" in text and layer in text
    other, _ = maps_make.draw(mapped.kept, "red", 0, None)
    assert drawn.size == other.size == (640, 640) and np.asarray(drawn).std() > 0
    assert not np.array_equal(np.asarray(drawn), np.asarray(other))


def test_the_picture_has_its_record(mapped, engine):
    from diffusers_ext.app.maps import files

    picture, sheet, numbers = files(mapped)
    found = record.read(picture)
    assert (found["prompt"], found["seed"], found["model"]) == (PROMPT, 3, "shapes-sd")
    assert sheet.endswith("maps.png") and numbers.endswith("maps.json")


def test_a_clip_has_a_covered_frame_for_each_frame_of_its_maps(engine, tmp_path):
    found, _ = made(engine, tmp_path, asked("shapes-wan", "a red circle moves right", 1))
    kept = found.kept.read()
    assert len(kept.image.frames) == kept.grid[0] > 1
    drawn, text = maps_make.draw(found.kept, found.kept.labels[0], 0, None)
    assert f"{kept.grid[0]} frames" in text and drawn.size == maps_make.plain(found.kept).size


def test_maps_that_are_large_leave_out_steps(engine, tmp_path, monkeypatch, direct):
    size = sum(each.nbytes for each in direct.data.values())
    monkeypatch.setattr(maps_make, "LIMIT_GIB", 2 * size / 2**30)
    found, _ = made(engine, tmp_path, asked(steps=6))
    assert found.kept.steps == (0, 2, 3, 5) or len(found.kept.steps) == 4


@pytest.mark.parametrize(
    ("data", "words", "sentence"),
    [
        ({"prompt": " "}, "", "write a prompt"),
        ({}, "green", "green"),
        ({}, ",", "words are those of the prompt|names no word|empty"),
        ({"steps": 500}, "", "up to 200 steps here, got 500"),
        ({"model": "../../etc"}, "", "unknown model|loads no models"),
    ],
)
def test_what_cannot_be_mapped_is_one_sentence(data, words, sentence, engine, tmp_path):
    with pytest.raises(Refused, match=sentence):
        made(engine, tmp_path, asked(**data), words)


def test_cancelling_ends_within_a_step(engine, tmp_path):
    steps = []

    def work(control, place):
        show = control.show
        control.show = lambda step: (show(step), steps.append(step), len(steps) == 4 and control.cancel())
        return maps_make.make(control, place, asked(steps=100), "", tmp_path)

    with pytest.raises(Refused, match="cancelled"):
        list(engine.run("a", work))
    assert len(steps) <= 6 and not list(tmp_path.iterdir())


def test_maps_that_are_gone_and_steps_that_are_not_there_are_refused(mapped, tmp_path):
    import dataclasses

    with pytest.raises(MethodError, match="no longer kept; make them again"):
        maps_make.draw(dataclasses.replace(mapped.kept, folder=tmp_path), "red", 0, None)
    with pytest.raises(MethodError, match="up to 2, got 7"):
        maps_make.draw(mapped.kept, "red", 7, None)
