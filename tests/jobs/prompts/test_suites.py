"""Test the readers of benchmark files on files in the published formats."""

import json
from collections import Counter

import pytest

from diffusers_ext.jobs.prompts import read
from tests.jobs import geneval

DRAWBENCH = {
    "Reddit": 38,
    "Colors": 25,
    "Text": 21,
    "DALL-E": 20,
    "Descriptions": 20,
    "Positional": 20,
    "Counting": 19,
    "Conflicting": 10,
    "Gary Marcus et al. ": 10,
    "Misspellings": 10,
    "Rare Words": 7,
}


def test_geneval_has_its_counts_and_keeps_each_line(file):
    lines = geneval.lines()
    rows = list(read(file("evaluation_metadata.jsonl", "\n".join(lines))))
    assert len(rows) == 553 and Counter(row.meta["tag"] for row in rows) == geneval.COUNTS
    assert [row.index for row in rows] == list(range(553))
    for row, line in zip(rows, lines, strict=True):
        assert row.meta["geneval"] == json.loads(line) and row.prompt == json.loads(line)["prompt"]


@pytest.mark.parametrize(
    "line, said",
    [
        ('"a photo"', "line 1 is no object"),
        ('{"prompt": "a", "include": []}', "has no 'tag'"),
        ('{"prompt": "a", "tag": "colors", "include": []}', "every picture would count as right"),
        ('{"prompt": "a", "tag": 1, "include": [{"class": "x", "count": 1}]}', "a 'tag' that is no text"),
        ('{"prompt": "a", "tag": "t", "include": [{"class": "x"}]}', "an 'include' that is no list"),
        (
            '{"prompt": "a", "tag": "t", "include": [{"class": "x", "count": 1}], "exclude": [3]}',
            "an 'exclude'",
        ),
        (
            '{"prompt": 5, "tag": "t", "include": [{"class": "x", "count": 1}]}',
            "a prompt that is no text, got 5",
        ),
    ],
)
def test_what_the_evaluator_of_geneval_would_fail_on_is_refused(file, refused, line, said):
    assert said in refused(file("a.jsonl", line), format="geneval")


def test_compbench_counts_in_each_category(file, tmp_path):
    prompts = "\n".join(f"a red cat and a blue dog, {i}." for i in range(300))
    file("set/color_val.txt", prompts)
    path = file("set/3d_spatial_val.txt", "a cat behind a dog\n\na dog\n")
    alone = list(read(tmp_path / "set" / "color_val.txt"))
    assert len(alone) == 300 and alone[-1].prompt.endswith("299.") and alone[-1].meta["number"] == 299
    rows = list(read(path.parent, format="t2i-compbench"))
    assert [row.index for row in rows] == [0, 2, *range(3, 303)]
    assert Counter(row.meta["category"] for row in rows) == {"color": 300, "3d_spatial": 2}
    assert [row.meta["number"] for row in rows[:4]] == [0, 2, 0, 1]


def test_hpdv2_has_prompts_by_style_and_ranked_prompts(file, tmp_path):
    styles = ["anime", "concept-art", "paintings", "photo"]
    for style in reversed(styles):
        file(f"hpd/{style}.json", json.dumps([f"{style} {i}" for i in range(3)]))
    rows = list(read(tmp_path / "hpd", format="hpdv2"))
    assert [row.prompt for row in rows] == [f"{style} {i}" for style in styles for i in range(3)]
    assert [row.index for row in rows] == list(range(12)) and rows[5].meta == {
        "style": "concept-art",
        "number": 2,
    }
    ranked = [{"prompt": "a", "image_path": ["x.jpg"], "rank": [0], "raw_annotations": []}]
    (row,) = read(file("test.json", json.dumps(ranked)), format="hpdv2")
    assert row.prompt == "a"


def test_drawbench_has_its_categories(file):
    rows = [(f'a "{i}", {name}', name) for name, n in DRAWBENCH.items() for i in range(n)]
    lines = ['"{}","{}"'.format(prompt.replace('"', '""'), name) for prompt, name in rows]
    found = list(read(file("DrawBench Prompts.csv", "\r\n".join(["Prompts,Category", *lines]))))
    assert [row.prompt for row in found] == [prompt for prompt, _ in rows] and len(found) == 200
    assert Counter(row.meta["category"] for row in found) == {k.strip(): v for k, v in DRAWBENCH.items()}


def test_drawbench_needs_categories(file, refused):
    assert "line 2 has no category" in refused(file("a.csv", "prompts\na\n"), format="drawbench")


def test_partiprompts(file):
    text = 'Prompt\tCategory\tChallenge\tNote\n"a ""b"", c"\tAnimals\tBasic\t\n'
    (row,) = read(file("PartiPrompts.tsv", text))
    assert row.prompt == 'a "b", c' and row.meta == {"category": "Animals", "challenge": "Basic"}


def test_pick_a_pic_with_quotes(file):
    text = '\ufeff序号,caption,caption_zh,备注\r\n0,"a cat, black",猫,\r\n1,"the word ""x""",,说\r\n'
    rows = list(read(file("pickscore.csv", text)))
    assert [row.prompt for row in rows] == ["a cat, black", 'the word "x"']
    assert rows[0].meta == {"序号": "0", "caption_zh": "猫"}


def test_pick_a_pic_without_quotes(file):
    text = (
        '序号,caption,caption_zh,备注\n0,Plain.\n1,A man, by Klimt, Nixeu, and Wlop.\n2,"Escape," of 1931\n'
    )
    rows = list(read(file("HPD_prompt.csv", text)))
    assert [row.prompt for row in rows] == [
        "Plain.",
        "A man, by Klimt, Nixeu, and Wlop.",
        '"Escape," of 1931',
    ]
    assert [row.index for row in rows] == [0, 1, 2] and rows[1].meta == {"id": "1"}


def test_files_of_other_suites_are_refused(file, refused, tmp_path):
    assert "has no column 'caption'" in refused(file("a.csv", "prompt\na\n"), format="pick-a-pic")
    (tmp_path / "empty").mkdir()
    for name in ("hpdv2", "t2i-compbench"):
        assert "has no file" in refused(tmp_path / "empty", format=name)
