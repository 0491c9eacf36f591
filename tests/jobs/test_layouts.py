"""Test that what layouts write is what the evaluators read."""

import json
import re
from collections import Counter

import pytest
from PIL import Image

from diffusers_ext.jobs.layouts import LAYOUTS, layout, prepare
from diffusers_ext.jobs.prompts import read
from diffusers_ext.jobs.rows import Row
from tests.jobs import geneval

PICTURE = Image.new("RGB", (1, 1))


def save(root, which, rows, n=1):
    """Make a job's files: what is beside first, and then the pictures."""
    suffix = which.suffix or ".png"
    for row in rows:
        prepare(root, which, row, suffix)
        for k in range(n):
            PICTURE.save(root / which.path(row, k, suffix))


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(geneval.lines()))
    return path


def test_the_evaluator_of_geneval_accepts_the_tree(tmp_path, metadata):
    rows, root = list(read(metadata))[::4], tmp_path / "out"
    root.mkdir()
    save(root, layout("geneval"), rows)
    (root / "manifest").mkdir()
    (root / "index.html").write_text("")
    found = geneval.walk(root)
    assert Counter(picture["tag"] for picture in found) == Counter(row.meta["tag"] for row in rows)
    by_folder = {int(picture["file"].parts[-3]): picture["prompt"] for picture in found}
    assert by_folder == {row.index: row.prompt for row in rows}
    line = (root / "00100" / "metadata.jsonl").read_text()
    assert json.loads(line) == json.loads(geneval.lines()[100])


def test_a_prompt_without_pictures_does_not_stop_the_evaluator(tmp_path, metadata):
    rows = list(read(metadata))[:3]
    for row in rows:
        prepare(tmp_path, layout("geneval"), row, ".png")
    save(tmp_path, layout("geneval"), rows[1:], n=4)
    assert (tmp_path / "00000" / "samples").is_dir()
    assert len(geneval.walk(tmp_path)) == 8


def test_preparing_again_leaves_equal_files_alone(tmp_path, metadata):
    row = next(read(metadata))
    prepare(tmp_path, layout("geneval"), row, ".png")
    path = tmp_path / "00000" / "metadata.jsonl"
    inode = path.stat().st_ino
    prepare(tmp_path, layout("geneval"), row, ".png")
    assert path.stat().st_ino == inode
    path.write_text("{")
    prepare(tmp_path, layout("geneval"), row, ".png")
    assert json.loads(path.read_text()) == row.meta["geneval"]


def compbench(prompt, number=0, **more):
    return Row(
        number, prompt, meta={"category": "3d_spatial", "number": number} | more, source="a.txt, line 1"
    )


@pytest.mark.filterwarnings("ignore:diffusers_ext. a.txt, line 1 is longer than a file name")
def test_the_evaluator_of_compbench_reads_prompt_and_number(tmp_path):
    prompts = ["a red cat.", "a cat/dog \\ ☂", "..", "a: b? 'c' \"d\"", "x" * 245, "x" * 244]
    rows = [compbench(prompt, i) for i, prompt in enumerate(prompts)]
    save(tmp_path, layout("t2i-compbench"), rows, n=10)
    folder = tmp_path / "3d_spatial" / "samples"
    names = [path.name for path in folder.iterdir()]
    names.sort(key=lambda x: int(x.split("_")[-1].split(".")[0]))  # as BLIP_vqa.py does with every file
    assert len(names) == 60 and [int(name[-10:-4]) for name in names] == list(range(60))
    assert [name.split("_")[0] for name in names[::10]] == [
        prompt.replace("/", "-") for prompt in prompts[:4]
    ] + ["x" * 244] * 2


def test_a_prompt_longer_than_a_name_is_cut_between_characters_with_a_warning(tmp_path):
    row = compbench("é日" * 200)
    with pytest.warns(UserWarning, match="a.txt, line 1 is longer than a file name"):
        path = layout("t2i-compbench").path(row, 3, ".png")
    assert 250 < len(path.name.encode()) <= 255 and path.name.endswith("_000003.png")
    assert row.prompt.startswith(path.name.split("_")[0])
    (tmp_path / path.name).touch()


def test_hpdv2_and_drawbench(tmp_path):
    style = Row(805, "a", meta={"style": "concept-art", "number": 5})
    assert str(layout("hpdv2").path(style, 0, ".jpg")) == "concept-art/00005.jpg"
    row = Row(190, "a", meta={"category": "Gary Marcus et al. ", "number": 190})
    names = [str(layout("drawbench").path(row, k, ".webp")) for k in (0, 2)]
    assert names == ["Gary Marcus et al/00190.webp", "Gary Marcus et al/00190-2.webp"]
    save(tmp_path, layout("drawbench"), [row])
    assert (tmp_path / "Gary Marcus et al" / "00190.png").is_file()


@pytest.mark.parametrize("category", ["..", "../up", "/etc", "a/../../b", "CON", "", "~", "x\0y"])
def test_categories_name_one_folder(tmp_path, category):
    row = Row(0, "a", meta={"category": category})
    for name in ("drawbench", "t2i-compbench"):
        path = layout(name).path(row, 0, ".png")
        assert not path.is_absolute() and ".." not in path.parts and "\0" not in str(path)
        assert len(path.parts) == (2 if name == "drawbench" else 3)


@pytest.mark.parametrize(
    "name, row, k, suffix, said",
    [
        (
            "geneval",
            Row(0, "a", source="a.txt, line 1"),
            0,
            ".png",
            "needs the metadata of each prompt, and a.txt, line 1",
        ),
        ("t2i-compbench", Row(0, "a"), 0, ".png", "needs the category of each prompt, and 'a' has none"),
        ("hpdv2", Row(0, "a"), 0, ".jpg", "needs the style"),
        ("geneval", Row(0, "a"), 0, ".jpg", "the evaluator of geneval reads .png files, got '.jpg'"),
        ("hpdv2", Row(0, "a", meta={"style": "photo"}), 0, ".png", "reads .jpg files"),
        ("hpdv2", Row(0, "a", meta={"style": "photo"}), 1, ".jpg", "at most 1 pictures for a prompt, got 2"),
        ("t2i-compbench", compbench("a"), 10, ".png", "at most 10 pictures for a prompt, got 11"),
        ("t2i-compbench", compbench("a", 10**5), 0, ".png", "at most 100000 prompts a category, got 100001"),
    ],
)
def test_what_an_evaluator_cannot_read_is_refused(tmp_path, name, row, k, suffix, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        which = layout(name)
        which.path(row, k, suffix)
        which.beside(row)


@pytest.mark.parametrize("name", ["t2i-compbench", "hpdv2", "drawbench"])
def test_numbers_and_categories_of_users(name):
    """A table has numbers as text, and JSON has any value for any key."""
    which = layout(name)
    facts = {"category": "a", "style": "a"}
    paths = [
        which.path(Row(0, "a", meta=facts | {"number": n}), 0, which.suffix or ".png") for n in (7, "007")
    ]
    assert paths[0] == paths[1]
    for number in ("x", "-1", -1, 1.5, True, "²", None):
        with pytest.raises(ValueError, match=r"whole numbers from 0 .* got .* in 'a'"):
            which.path(Row(0, "a", meta=facts | {"number": number}), 0, which.suffix or ".png")
    with pytest.raises(ValueError, match=f"{name} takes text as the (category|style) of a prompt, got 5"):
        which.path(Row(0, "a", meta={"category": 5, "style": 5}), 0, which.suffix or ".png")


def test_metadata_that_is_no_table_is_refused():
    with pytest.raises(ValueError, match="takes a table of keys as the metadata of a prompt, got 'x'"):
        layout("geneval").beside(Row(0, "a", meta={"geneval": "x"}))


def test_an_unknown_layout():
    with pytest.raises(ValueError, match=f"unknown layout 'gen'; the layouts are {', '.join(LAYOUTS)}"):
        layout("gen")


def test_no_two_pictures_have_one_path():
    rows = [
        Row(i, "same", meta={"category": "c", "style": "s", "geneval": {}, "number": i}) for i in range(30)
    ]
    for which in LAYOUTS.values():
        most = 1 if which is LAYOUTS["hpdv2"] else 10
        paths = {which.path(row, k, which.suffix or ".png") for row in rows for k in range(most)}
        assert len(paths) == 30 * most
