"""Sheets and pages: what they show, that text is escaped, and that a page needs nothing else."""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext import explore
from diffusers_ext.explore import contact, map_files

from ..hosts import built
from .test_token_maps import PROMPT, call_of, pixels

EVIL = "red </script><script>x()</script> &"


@pytest.fixture(scope="module")
def found():
    host, pipe = built("sd")
    return explore.maps(pipe, PROMPT, "red, cat", per_head=True, **call_of(host, steps=3))


@pytest.fixture(scope="module")
def sheet():
    host, pipe = built("sd")
    return explore.heads(pipe, PROMPT, layers="up_blocks*, mid_block", **call_of(host))


def data_of(page):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)


def test_files_of_maps(found, tmp_path):
    paths = found.save(tmp_path / "new", {"model": "tiny"})
    assert [path.name for path in paths] == [
        "maps.png",
        "maps-steps.png",
        "maps-layers.png",
        "maps-heads.png",
        "maps.html",
        "maps.json",
    ]
    facts = json.loads(paths[-1].read_text())
    assert facts["model"] == "tiny" and facts["steps"] == [0, 1, 2] and facts["grid"] == [1, 16, 16]
    word = facts["words"][1]
    assert word["word"] == "cat" and word["characters"] == [6, 9] and word["text_keys"] == [5, 6, 7]
    mean, at = found.map("cat"), word["at"]
    assert word["largest"] == float(mean.max()) == float(mean[at["frame"], at["row"], at["column"]])
    for path in paths[:4]:
        with Image.open(path) as image:
            assert image.width >= contact.SIDE and len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_one_step_and_layer_need_no_sheets_of_them(tmp_path):
    host, pipe = built("sd")
    one = explore.maps(pipe, PROMPT, "cat", layers="mid_block", steps=[1], **call_of(host))
    assert [path.name for path in one.save(tmp_path)] == ["maps.png", "maps.html", "maps.json"]


def test_the_page_holds_the_maps(found):
    data = data_of(map_files.page(found))
    assert data["words"] == ["red", "cat"] and data["layers"] == list(found.layers)
    words, steps, layers, heads = 2, 3, len(found.layers), 4
    assert len(data["maps"]) == words * (steps + 1) * (1 + layers * (heads + 1))
    for key, one in [
        ("1,-1,-1,-1", found.map("cat")),
        ("0,2,1,3", found.map("red", step=2, layer=found.layers[1], head=3)),
    ]:
        top, *shape, packed = data["maps"][key]
        values = np.frombuffer(base64.b64decode(packed), np.uint8).reshape(shape)
        assert top == pytest.approx(float(one.max()), rel=5e-3) and values.max() == 255
        assert np.abs(values / 255 * top - one.numpy()).max() <= float(one.max()) * 0.008
    with Image.open(BytesIO(base64.b64decode(data["pictures"][0].partition(",")[2]))) as picture:
        assert np.array_equal(np.asarray(picture), pixels(found.image))


def test_a_page_that_would_be_too_large_has_means(found, monkeypatch):
    layers, places = len(found.layers), sum(maps[0, 0, 0].numel() for maps in found.data.values())
    means = 2 * (4 * 256 + places)  # of words: over all, by step, by layer
    for size, count in ((100, 1), (means, 4 + layers), (means + 8 * places, 4 + 5 * layers)):
        monkeypatch.setattr(map_files, "PAGE_BYTES", size)
        page = map_files.page(found)
        assert "This page has means only" in page and len(data_of(page)["maps"]) == 2 * count


def test_a_clip_has_a_frame_for_each_frame_of_the_maps():
    host, pipe = built("wan")
    found = explore.maps(pipe, PROMPT, "cat", **call_of(host))
    page = map_files.page(found)
    assert found.grid[0] == 3 and len(data_of(page)["pictures"]) == 3 and 'id="frame"' in page
    shown = [np.asarray(frame) for frame in map_files.frames(found)]
    frames = found.image.frames
    assert all(np.array_equal(a, frames[i]) for a, i in zip(shown, (0, 1, 3), strict=True))


@pytest.mark.parametrize("kind", ["maps", "heads"])
def test_pages_escape_text_and_need_no_other_file(kind):
    host, pipe = built("sd")
    call = call_of(host, steps=1)
    if kind == "maps":
        page = map_files.page(explore.maps(pipe, EVIL, "red", **call))
    else:
        made = explore.heads(pipe, EVIL, layers="mid_block", heads=[0], **call)
        page = explore.head_sheet.page(made)
    assert "x()" in page and "<script>x" not in page and "</script><script>" not in page
    assert not re.search(r"\b(src|href)=\"(?!data:)", page) and "http" not in page


def test_files_of_heads(sheet, tmp_path):
    paths = sheet.save(tmp_path, {"model": "tiny"})
    assert len(paths) == len(sheet.layers) + 2 and paths[-1].name == "heads.json"
    assert paths[0].name == "heads-unet.mid_block.attentions.0.transformer_blocks.0.attn1.png"
    facts = json.loads(paths[-1].read_text())
    assert facts["model"] == "tiny" and len(facts["heads"]) == len(sheet.pictures)
    assert facts["heads"][1]["head"] == 1 and facts["heads"][1]["change"] > 0
    page = paths[-2].read_text()
    assert page.count("data:image/png") == len(sheet.pictures) + 1
    assert page.count("<section>") == len(sheet.layers)
    with Image.open(paths[0]) as image:
        assert image.width > 4 * contact.SIDE


def test_a_head_without_a_picture_is_named(sheet, tmp_path):
    from dataclasses import replace

    gone = replace(sheet.pictures[0], image=None, change=None, verdict=None, reason="NaN <b>")
    some = replace(sheet, pictures=(gone, *sheet.pictures[1:]))
    paths = some.save(tmp_path)
    assert "could not be made</b><br>NaN &lt;b&gt;" in paths[-2].read_text()
    assert json.loads(paths[-1].read_text())["heads"][0]["failed"] == "NaN <b>"


def test_colours_grow_in_lightness():
    ramp = contact.colours(np.linspace(0, 1, 256, dtype=np.float32))
    light = ramp @ np.float32([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > 0).all() and ramp[0].max() < 10 and light[-1] > 230


def test_an_overlay_shows_where_the_map_is_bright():
    picture = Image.new("RGB", (40, 40), "red")
    values = torch.zeros(2, 4)
    values[1, 3] = 0.25
    made = np.asarray(contact.overlay(picture, values.numpy())).sum(-1)
    bright = np.argwhere(made == made.max())
    assert bright.min(0).tolist() == [20, 30] and bright.max(0).tolist() == [39, 39]
    assert contact.overlay(picture, np.zeros((2, 4), np.float32)).size == (40, 40)


def test_an_unwritable_folder(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to the output folder"):
        found.save(tmp_path / "file")
