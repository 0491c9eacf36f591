"""The pictures of attention heads of the page."""

import json

import numpy as np
import pytest
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.app import heads, heads_make
from diffusers_ext.app.asked import Asked
from diffusers_ext.app.engine import Done, Engine, Refused
from diffusers_ext.app.heads_make import Layers
from diffusers_ext.app.models import Models
from diffusers_ext.errors import MethodError
from diffusers_ext.outputs import record
from diffusers_ext.sampling.generate import applied

PROMPT = "a red circle and a blue square"
TURBO = "shapes-sd-turbo"


@pytest.fixture(scope="module")
def engine():
    return Engine(Models())


def result(engine, work):
    *_, last = engine.run("a", work)
    assert isinstance(last, Done)
    return last.result


def asked(**data):
    return Asked.of({"prompt": PROMPT, "model": TURBO, "seed": 3, **data})


@pytest.fixture(scope="module")
def layers(engine):
    found = Layers()
    assert found.known(TURBO) is None
    result(engine, lambda control, place: found.find(place, TURBO))
    return found.known(TURBO)


@pytest.fixture(scope="module")
def sheet(engine, layers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    some = heads.middle(layers)
    return result(
        engine, lambda control, place: heads_make.draw_sheet(control, place, asked(), some, 3.0, 1.0, folder)
    )


def test_layers_are_those_of_the_model_with_short_names(layers):
    names = heads.short(layers)
    assert len(set(names.values())) == len(layers) == 7 and sum(layers.values()) == 18
    assert names["unet.mid_block.attentions.0.transformer_blocks.0.attn1"] == "mid_block.attentions.0"
    assert heads.short(["transformer.blocks.0.attn1"]) == {"transformer.blocks.0.attn1": "blocks.0"}
    first = heads.middle(layers)
    assert any("mid_block" in path for path in first) and sum(layers[path] for path in first) >= heads.FIRST


def test_each_head_has_a_picture_with_a_record_that_makes_it_again(sheet):
    assert len(sheet.heads) >= heads.FIRST
    head = sheet.ordered(by_change=True)[0]
    assert head.change == max(each.change for each in sheet.heads) > 0
    (method,) = record.read(head.path)["methods"]
    method.pop("name")
    import torch

    pipe = dx.load(TURBO)
    pipe.set_progress_bar_config(disable=True)
    call = record.read(head.path)["call"]
    with applied(pipe, (dx.SoftPAG(**method),)):
        again = pipe(PROMPT, generator=torch.Generator().manual_seed(3), **call).images[0]
    difference = np.asarray(again).astype(int) - np.asarray(Image.open(head.path))
    assert abs(difference).max() <= 2  # rows of a batch may differ by a rounding step
    assert record.read(sheet.plain)["methods"] == []


def test_one_head_perturbed_again_is_the_picture_of_the_sheet(engine, sheet):
    head = sheet.heads[0]
    chosen = heads_make.numbers([head])

    def drawn(*settings):
        return result(engine, lambda c, place: heads_make.perturb(c, place, sheet, chosen, *settings))

    same, none = drawn(3.0, 1.0), drawn(0.0, 1.0)
    pixels = {each.path: np.asarray(Image.open(each.path)).astype(int) for each in (same, none)}
    assert abs(pixels[same.path] - np.asarray(Image.open(head.path))).max() <= 2
    assert np.array_equal(pixels[none.path], np.asarray(Image.open(sheet.plain)))  # a scale of 0 is plain
    assert record.read(same.path)["methods"][0]["heads"] == chosen


def test_heads_of_one_module_are_one_entry(sheet):
    some = sheet.named([heads_make.label(each) for each in sheet.heads[:3]])
    assert json.dumps(heads_make.numbers(some)) == json.dumps({sheet.heads[0].layer: [0, 1, 2]})
    with pytest.raises(MethodError, match="the sheet has no 'head 99'"):
        sheet.named(["head 99"])


@pytest.mark.parametrize(
    ("data", "layers", "settings", "sentence"),
    [
        ({"prompt": ""}, [], (3.0, 1.0), "write a prompt"),
        ({}, ["mid_blok"], (3.0, 1.0), "no attention module is named 'mid_blok'"),
        ({}, [], (3.0, 2.0), "strength"),
        ({}, [], (-1.0, 1.0), "scale"),
        ({"call": {"height": 63}}, [], (3.0, 1.0), "63"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(data, layers, settings, sentence, engine, tmp_path):
    with pytest.raises(Refused, match=sentence):
        result(
            engine,
            lambda c, place: heads_make.draw_sheet(c, place, asked(**data), layers, *settings, tmp_path),
        )
    assert not list(tmp_path.iterdir())


def test_too_many_heads_are_refused_before_anything_runs(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(heads_make, "MOST", 4)
    with pytest.raises(Refused, match="18 heads are too many to draw at a time, and the most is 4"):
        result(engine, lambda c, place: heads_make.draw_sheet(c, place, asked(), [], 3.0, 1.0, tmp_path))


def test_layers_of_many_models_are_forgotten(engine, monkeypatch):
    monkeypatch.setattr(heads_make, "MODELS", 1)
    found = Layers()
    for model in (TURBO, "shapes-sd"):
        result(engine, lambda control, place, model=model: found.find(place, model))
    assert found.known(TURBO) is None and found.known("shapes-sd")


def test_cancelling_ends_within_a_step(engine, tmp_path):
    steps = []

    def work(control, place):
        show = control.show
        control.show = lambda step: (show(step), steps.append(step), len(steps) == 5 and control.cancel())
        long = asked(model="shapes-sd", call={"num_inference_steps": 100})
        return heads_make.draw_sheet(control, place, long, ["mid_block*"], 3.0, 1.0, tmp_path)

    with pytest.raises(Refused, match="cancelled"):
        list(engine.run("a", work))
    assert len(steps) <= 7 and not list(tmp_path.iterdir())
