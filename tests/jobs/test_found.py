"""Test that pictures in every layout are found with their prompts, and those of nobody are not."""

import json

import pytest
from PIL import Image

from diffusers_ext.jobs.found import find
from diffusers_ext.jobs.layouts import LAYOUTS, prepare
from diffusers_ext.jobs.rows import Row
from diffusers_ext.outputs.record import write_image

PICTURE = Image.new("RGB", (8, 8))
PROMPTS = ["a red circle", "two blue stars", "a green cross above a pink star"]


def metadata(prompt):
    return {"tag": "colors", "include": [{"class": "x", "count": 1}], "prompt": prompt}


def rows():
    for i, prompt in enumerate(PROMPTS):
        meta = {"geneval": metadata(prompt), "category": "color", "style": "photo", "number": i}
        yield Row(i, prompt, meta=meta)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_was_written_is_found(tmp_path, name):
    which, written = LAYOUTS[name], {}
    suffix = which.suffix or ".webp"
    for row in rows():
        prepare(tmp_path, which, row, suffix)
        for k in range(1 if name == "hpdv2" else 2):
            path = tmp_path / which.path(row, k, suffix)
            write_image(path, PICTURE, {"prompt": row.prompt, "seed": k})
            written[path] = row.prompt
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / "a.jsonl").write_text("{}")
    assert {found.path: found.prompt for found in find(tmp_path, name)} == written


def test_geneval_and_compbench_need_no_record(tmp_path):
    for row in rows():
        for name in ("geneval", "t2i-compbench"):
            (tmp_path / name).mkdir(exist_ok=True)
            prepare(tmp_path / name, LAYOUTS[name], row, ".png")
            PICTURE.save(tmp_path / name / LAYOUTS[name].path(row, 0, ".png"))
    for name in ("geneval", "t2i-compbench"):
        assert [found.prompt for found in find(tmp_path / name, name)] == PROMPTS
    assert [f.prompt for f in find(tmp_path / "t2i-compbench" / "color", "t2i-compbench")] == PROMPTS, (
        "a category"
    )


@pytest.mark.parametrize("comment", [bytes(28), b"ASCII\0\0\0   \0", b"UNICODE\0" + bytes(20), 7, ""])
def test_a_comment_without_a_text_leaves_the_file_beside(tmp_path, comment):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    PICTURE.save(tmp_path / "a.jpg", exif=exif)
    assert 0x9286 in Image.open(tmp_path / "a.jpg").getexif().get_ifd(0x8769)
    (tmp_path / "a.txt").write_text("a red circle")
    assert [found.prompt for found in find(tmp_path)] == ["a red circle"]


def test_prompts_beside_pictures(tmp_path):
    for name in ("a", "b", "c"):
        PICTURE.save(tmp_path / f"{name}.png")
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "a red circle"}))
    (tmp_path / "b.txt").write_text("\ufefftwo blue stars\n")
    write_image(tmp_path / "c.png", PICTURE, {"prompt": "a pink star"})
    (tmp_path / "notes.md").write_text("")
    assert [found.prompt for found in find(tmp_path)] == ["a red circle", "two blue stars", "a pink star"]
    PICTURE.save(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r"the prompt of '.*d.png' is neither in it nor in a .json"):
        list(find(tmp_path))


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="unknown layout 'gen'; the layouts are flat, geneval"):
        next(find(tmp_path, "gen"))
    with pytest.raises(FileNotFoundError, match="there is no folder of pictures"):
        next(find(tmp_path / "none"))
    for name in LAYOUTS:
        with pytest.raises(ValueError, match=f"has no pictures in the layout {name}; name another folder"):
            next(find(tmp_path, name))
    (tmp_path / "00000").mkdir()
    for content in (None, "{", "[]", "{}", '{"prompt": 3}', "[" * 10**5):
        if content is not None:
            (tmp_path / "00000" / "metadata.jsonl").write_text(content)
        with pytest.raises(ValueError, match=r"metadata.jsonl' does not say the prompt of its"):
            next(find(tmp_path, "geneval"))
