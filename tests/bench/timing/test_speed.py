"""Test the speed of generation: every case is timed, checked against pictures made alone, and reported."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.ledger import committed
from bench.timing import speed
from bench.timing.speed import PROMPTS, measure, to_markdown
from diffusers_ext.sampling.clip import Clip
from diffusers_ext.sampling.items import Item, Picture
from diffusers_ext.zoo import catalogue


def test_batches_and_threads_give_the_same_pictures(monkeypatch):
    monkeypatch.setattr(speed, "PICTURES", 2)
    before = torch.get_num_threads()
    rows = measure("shapes-sd-turbo", [1], 1)
    assert torch.get_num_threads() == before
    assert [(r["threads"], r["batch"], r["pictures"]) for r in rows] == [(1, 1, 2), (1, 16, 2)]
    assert rows[0]["off"] == 0 and rows[1]["off"] <= 1 and all(r["seconds"] > 0 for r in rows)
    assert abs(rows[0]["right"] - rows[1]["right"]) <= 1, "a step of 255 may tip a verdict, hardly two"


@pytest.mark.parametrize("shape, kind", [((8, 8, 3), Image.fromarray), ((2, 8, 8, 3), Clip)])
def test_another_picture_is_noticed(shape, kind):
    def made(value):
        return [Picture(Item("a red circle", 0), kind(np.full(shape, value, np.uint8)), 0.1)]

    assert speed._off(made(3), made(3)) == 0 and speed._off(made(3), made(200)) == 197


def test_the_table_tells_the_fastest_way():
    names = "threads", "batch", "seconds", "off"
    cases = (1, 1, 0.2, 0), (2, 16, 0.05, 1)
    rows = [
        {"model": "M", **dict(zip(names, case, strict=True)), "right": 15, "pictures": 16} for case in cases
    ]
    facts = {"hardware": "a machine", "torch": "2.13", "rows": rows}
    text = to_markdown(facts)
    assert "a machine, torch 2.13." in text and "2 threads, 16 at once" in text
    assert "| M | 0.200 | 0.050 | 10 | 1 | 15 of 16 |" in text


def test_the_committed_run_keeps_the_promise_of_every_model():
    """A picture takes less than 2 s and a clip less than 15 s, also one at a time on one thread."""
    rows = committed("speed-cpu-x86_64")["rows"]
    assert {row["model"] for row in rows} == set(catalogue.MODELS)
    assert max(row["seconds"] for row in rows if row["model"] != "shapes-wan") < 2
    assert max(row["seconds"] for row in rows) < 15
    assert max(row["off"] for row in rows) <= 2 and max(PROMPTS * row["seconds"] for row in rows) < 600
