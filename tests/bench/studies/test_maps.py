"""The study of maps: boxes of objects, what counts as a hit, chance, and its table."""

import json

import numpy as np

import diffusers_ext as dx
from bench.ledger import RESULTS
from bench.studies import maps
from diffusers_ext.evaluate.statistics import wilson
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.zoo.world.captions import Object, Spec
from diffusers_ext.zoo.world.detect import detect
from diffusers_ext.zoo.world.render import draw

RED, BLUE = Object("red", "circle"), Object("blue", "square")


def test_the_box_around_an_object_holds_its_pixels():
    picture = draw(Spec((RED, BLUE)), 0)
    for found in detect(picture):
        y, x = maps.box_of(picture, found)
        assert y.start < found.centre[1] < y.stop and x.start < found.centre[0] < x.stop
        area = (y.stop - y.start) * (x.stop - x.start)
        assert found.area <= area < 2 * found.area
        colour = picture.max(-1).astype(float) - picture.min(-1)
        edge = np.concatenate(
            [colour[y.start - 1, x], colour[y.stop, x], colour[y, x.start - 1], colour[y, x.stop]]
        )
        assert edge.max() <= 255 * maps.COLOURED


def test_objects_that_touch_have_no_box():
    picture = np.full((64, 64, 3), 128, np.uint8)
    picture[20:40, 10:30], picture[20:40, 30:50] = (220, 30, 30), (30, 30, 220)
    found = detect(picture)
    assert len(found) == 2 and all(maps.box_of(picture, each) is None for each in found)


def test_places_whose_centres_are_in_the_box():
    within = maps.inside((slice(16, 32), slice(0, 8)), (4, 8), (64, 64))
    assert within.shape == (4, 8) and np.argwhere(within).tolist() == [[1, 0]]
    assert maps.inside((slice(0, 64), slice(0, 64)), (16, 16), (64, 64)).all()


def test_hits_and_mass():
    within = np.zeros((2, 2), bool)
    within[0, 1] = True
    own, other = np.float32([[1, 5], [2, 2]]), np.float32([[9, 1], [1, 1]])
    assert maps.measured(own, other, within) == {"hit": True, "control": False, "chance": 0.25, "mass": 0.5}


def test_a_share_of_all_is_not_certain():
    """The interval of shares has a width even if all maps hit; prompts count, not objects."""
    rows = [maps.Row(p // 2, "shape", "circle", maps.ALL, True, False, 0.1, 0.5) for p in range(20)]
    found, (low, high) = maps.summary(rows)[maps.ALL]["shape"], wilson(10, 10)
    assert (found["hit"]["low"], found["hit"]["high"], found["hit"]["n"]) == (low, high, 20)
    assert (found["control"]["low"], found["control"]["high"]) == wilson(0, 10)
    assert (found["chance"]["low"], found["chance"]["high"]) == (0.1, 0.1), "a mean, not a share"
    assert maps.by_word(rows)["circle"]["low"] == low


def test_rows_of_a_model():
    pipe = dx.load("shapes-sd")
    pipe.set_progress_bar_config(disable=True)
    asked = questions("tuning", 1, 0, (maps.TASK,))
    rows, missed = maps.rows_of(pipe, asked)
    assert len(rows) == (2 - missed) * 3 * 8  # kinds of words; layers and their mean
    assert {row.kind for row in rows} <= set(maps.KINDS) and all(0 < row.chance < 0.5 for row in rows)


def test_the_committed_table():
    found = json.loads((RESULTS / "maps-shapes-sd.json").read_text())
    held = found["held_out"]
    assert set(held) > {maps.ALL, found["layer"]} and len(held) == 8
    one = held[maps.ALL]["shape"]["hit"]
    assert one["n"] + found["missed"] == 2 * found["n"]
    table = maps.to_markdown(found)
    assert table.count("\n| ") == 7 and f"{100 * one['mean']:.0f} %" in table


def test_the_best_layer_is_that_of_shapes():
    hits = {maps.ALL: 1.0, "a": 0.5, "b": 0.7, "c": 0.7}
    found = {
        name: {k: {"hit": {"mean": v if k == "shape" else 1 - v}} for k in maps.KINDS}
        for name, v in hits.items()
    }
    assert maps.best_layer(found) == "b"
