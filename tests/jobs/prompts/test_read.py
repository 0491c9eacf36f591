"""Test that prompts come back from text, JSON and tables, and that what is wrong is named with its line."""

import csv
import io
import json
import tracemalloc
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.jobs.prompts import FORMATS, read, texts
from diffusers_ext.jobs.prompts.objects import _PIECE, json_list


def plain(rows):
    return [(row.index, row.prompt) for row in rows]


def test_a_list():
    assert plain(texts(["a", "", "日本 🙂"])) == [(0, "a"), (1, ""), (2, "日本 🙂")]
    with pytest.raises(ValueError, match="prompt 2 has a prompt that is no text, got None"):
        list(texts(["a", None]))


def test_empty_lines_of_text_count_in_the_index(file):
    path = file("a.txt", "\ufeffone\r\n\r\n  two  \n\n日本, \u2028 🙂")
    rows = list(read(path))
    assert plain(rows) == [(0, "one"), (2, "two"), (4, "日本, \u2028 🙂")]
    assert [row.source for row in rows] == ["a.txt, line 1", "a.txt, line 3", "a.txt, line 5"]


def test_a_table_with_all_that_csv_allows(file):
    text = (
        '\ufeffNote, Prompt ,Seed,steps,CFG,negative,size\r\n"x, y","a ""b"",\r\nc",7,20,4.5,no,512x768\r\n'
    )
    text += "\r\n,plain,,,,,\r\n,short\r\n"
    first, second, third = read(file("a.csv", text))
    assert (first.index, first.prompt, first.seed) == (0, 'a "b",\r\nc', 7)
    call = {"num_inference_steps": 20, "guidance_scale": 4.5, "negative_prompt": "no"}
    assert first.call == call | {"width": 512, "height": 768}
    assert first.meta == {"note": "x, y"} and first.source == "a.csv, line 2"
    assert (second.prompt, second.seed, second.call, second.meta) == ("plain", None, {}, {})
    assert second.source == "a.csv, line 5" and third.prompt == "short"


@pytest.mark.parametrize("head", ["prompt", "Prompt", "prompts", "Prompts", "caption", "text"])
def test_the_column_of_prompts_is_found(file, head):
    (row,) = read(file("a.tsv", f"kind\t{head}\nx\ta, b\n"))
    assert row.prompt == "a, b" and row.meta == {"kind": "x"}


def test_a_column_can_be_chosen(file):
    path = file("a.csv", "prompt,recaption\na,b\n")
    (row,) = read(path, column="recaption")
    assert (row.prompt, row.meta) == ("b", {"prompt column": "a"})


def test_objects_hold_settings_and_facts(file):
    path = file(
        "a.jsonl",
        '{"prompt": "a", "seed": 3, "num_frames": 9, "meta": {"k": [1]}, "id": "x"}\n\n"b"\n{"text": ""}\n',
    )
    first, second, third = read(path)
    assert (first.seed, first.call, first.meta) == (3, {"num_frames": 9}, {"k": [1], "id": "x"})
    assert plain([second, third]) == [(2, "b"), (3, "")]


def test_a_list_of_json_is_read_in_pieces(file):
    values = [
        "x" * (_PIECE // 3),
        {"prompt": '[,]\\" }', "seed": 12345},
        "ü" * _PIECE,
        "",
        {"caption": "a\n"},
    ] * 5
    path = file("a.json", "\ufeff" + json.dumps(values, indent=1, ensure_ascii=False))
    rows = list(read(path))
    assert [row.prompt for row in rows] == [
        v if isinstance(v, str) else next(iter(v.values())) for v in values
    ]
    places = [
        i for i, line in enumerate(path.read_text().split("\n"), 1) if line.startswith(' "') or line == " {"
    ]
    assert [row.source for row in rows] == [f"a.json, line {place}" for place in places]


@settings(max_examples=40)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_json_list_is_read_as_json_reads_it(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps([value, value], ensure_ascii=False), encoding="utf-8", errors="surrogatepass")
    assert list(json_list(path, lambda index, found, source: found)) == json.loads(json.dumps([value, value]))


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(str.strip), min_size=1))
def test_any_prompt_survives_a_table(tmp_path_factory, prompts):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["prompt"], *([p] for p in prompts)])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(out.getvalue().encode())
    assert [row.prompt for row in read(path)] == prompts


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.txt", "", "has no prompts; write one or more"),
        ("a.txt", "ok\na\0b", "a.txt, line 2 has the character NUL in its prompt"),
        ("a.txt", b"ok\nb\xe4d", "a.txt, line 2 is not UTF-8 (byte 0xe4)"),
        ("a.txt", "a".encode("utf-16"), "is UTF-16, not UTF-8"),
        ("a.jsonl", '"a"\n{"prompt": "b"', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", '{"prompt": NaN}', "NaN is no JSON number"),
        ("a.jsonl", "[" * 100_000, "nested too deeply"),
        (
            "a.jsonl",
            '{"promt": "b"}',
            "line 1 has no prompt, which is named prompt, prompts, caption or text; 'promt'",
        ),
        ("a.jsonl", '{"prompt": null}', "line 1 has a prompt that is no text, got None"),
        ("a.jsonl", '{"prompt": "\\ud800"}', "a lone surrogate"),
        ("a.jsonl", '{"prompt": "a", "stepz": 3}', "an unknown key 'stepz'; nearest is 'steps'"),
        (
            "a.jsonl",
            '{"prompt": "a", "zebra": 3}',
            "an unknown key 'zebra'; facts of your own belong under 'meta'",
        ),
        ("a.jsonl", '{"prompt": "a", "steps": "3"}', "steps takes a whole number, got '3'"),
        ("a.jsonl", '{"prompt": "a", "cfg": 1e999}', "cfg takes a number, got inf"),
        (
            "a.jsonl",
            '{"prompt": "a", "seed": -1}',
            "a seed must be a whole number from 0 to 2**63 - 1, got -1",
        ),
        ("a.jsonl", '{"prompt": "a", "seed": 1.5}', "seed takes a whole number, got 1.5"),
        ("a.jsonl", '{"prompt": "a", "size": "12"}', "size takes WIDTHxHEIGHT in px"),
        (
            "a.jsonl",
            '{"prompt": "a", "steps": 1, "num_inference_steps": 2}',
            "sets num_inference_steps twice",
        ),
        ("a.jsonl", '{"prompt": "a", "size": "8x8", "width": 9}', "sets width twice"),
        (
            "a.jsonl",
            '{"prompt": "a", "Prompt": "b"}',
            "names a key twice, in upper and lower case: 'prompt', 'Prompt'",
        ),
        ("a.jsonl", '{"prompt": "a", "text": "b"}', "has two prompts, 'prompt' and 'text'"),
        ("a.jsonl", '{"prompt": "a", "size": "' + "9" * 5000 + 'x1"}', "size takes WIDTHxHEIGHT"),
        ("a.jsonl", '{"prompt": "a", "meta": 3}', "facts under 'meta' that are no object"),
        (
            "a.jsonl",
            '{"prompt": "a", "id": 4}\n"b"\n{"prompt": "c", "id": 4}',
            "line 3 has the id 4, which came before",
        ),
        ("a.json", '{"a": 1}', "holds no list, it begins with '{'"),
        ("a.json", '["a",\n 12]', "a.json, line 2 is neither text nor an object, got 12"),
        ("a.json", '["a",\n {"prompt": "b"} 3]', "a.json, line 2 has no comma between two elements"),
        ("a.json", '["a",\n\n "b', "a.json, line 3 is not JSON: Unterminated string"),
        ("a.json", '["a",', "breaks off inside the list"),
        ("a.json", '["a"] 2', "goes on after the end of the list"),
        ("a.json", '["a", nul]' + " " * 100 + "x" * 2**20, "is not JSON: Expecting value"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "prompt,seed\n", "has no prompts"),
        (
            "a.csv",
            "a,b\n1,2\n",
            "has no column of prompts, named prompt, prompts, caption or text; it has 'a', 'b'",
        ),
        (
            "a.csv",
            "prompt,sed\na,1\n",
            "a.csv, line 1 has a column 'sed', which is no setting; nearest is 'seed'",
        ),
        ("a.csv", "prompt,a,a\nx,1,2\n", "names a column twice, 'a'"),
        (
            "a.csv",
            "prompt,seed\nx\n\na, b,3\n",
            "a.csv, line 4 has 3 cells and the heading 2; put prompts with",
        ),
        ("a.csv", "seed,prompt\n3\n", "a.csv, line 2 has 1 cells and the heading 2; its prompt is missing"),
        ("a.csv", "prompt,seed\nx,1\n,2\n", "a.csv, line 3 has no prompt"),
        (
            "a.csv",
            'prompt,seed\n"x,1\ny,2\n',
            "a.csv, line 2 is no record of a table: unexpected end of data",
        ),
        ("a.csv", "prompt,seed\nx,1.0\n", "seed takes a whole number, got '1.0'"),
        ("a.csv", "prompt,id\nx,1\ny,1\n", "a.csv, line 3 has the id '1', which came before"),
        ("a.yaml", "a", "does not say how prompts are written in it; name a format: geneval,"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(file, refused, name, content, said):
    assert said in refused(file(name, content))


def test_missing_files_formats_and_columns(file, refused, tmp_path):
    assert "there is no file of prompts" in refused(tmp_path / "none.txt")
    path = file("a.txt", "a")
    assert f"unknown format 'tex' of prompts; the formats are {', '.join(FORMATS)}" in refused(
        path, format="tex"
    )
    assert "a column is chosen in tables, and 'a.txt' is none" in refused(path, column="x")
    assert "has no column 'x'; it has 'prompt'" in refused(file("a.csv", "prompt\na"), column="x")


def test_bad_rows_can_be_skipped_and_are_counted(file):
    good = ["a", "b", "c"]
    path = file(
        "a.jsonl",
        b'"a"\n{"promt": 1}\n{bad\n"b"\n\xff\n\n{"prompt": "c", "id": 1}\n{"prompt": "d", "id": 1}\n',
    )
    with pytest.warns(
        UserWarning, match=r"4 of 7 rows of a.jsonl were skipped; the first: a.jsonl, line 2 has no"
    ):
        rows = list(read(path, skip_bad=True))
    assert [row.prompt for row in rows] == good
    assert [row.index for row in rows] == [0, 3, 6], "rows keep their seeds"
    path = file("b.csv", b'prompt,seed\na,1\nx,y\n"q"q,1\n\xff,1\nb,2\nc,3\n')
    with pytest.warns(UserWarning, match="3 of 6 rows"):
        assert [row.prompt for row in read(path, skip_bad=True)] == good


def test_nothing_good_is_an_error_also_when_skipping(file, refused):
    assert "has no prompts; all 2 rows were skipped; the first: a.jsonl, line 1" in refused(
        file("a.jsonl", "x\ny\n"), skip_bad=True
    )


def test_no_warning_without_bad_rows(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read(file("a.txt", "a\nb"), skip_bad=True))) == 2


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv"])
def test_memory_does_not_grow_with_the_file(file, kind):
    words = [f"a picture of number {i}, {'x' * 300}" for i in range(4_000)]
    content = {
        "txt": "\n".join(words),
        "jsonl": "\n".join(json.dumps({"prompt": word, "id": i}) for i, word in enumerate(words)),
        "json": json.dumps(words),
        "csv": "id,prompt\n" + "\n".join(f'{i},"{word}"' for i, word in enumerate(words)),
    }[kind]
    path = file(f"a.{kind}", content)
    rows = read(path)
    next(rows)
    tracemalloc.start()
    count = 1 + sum(1 for _ in rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(words) and len(content) > 1_000_000 and peak < 600_000


def test_a_line_without_end_is_refused_without_being_read(file, refused, monkeypatch):
    monkeypatch.setattr("diffusers_ext.jobs.prompts.lines.MOST", 2**20)
    path = file("a.txt", "x" * (2**20 * 3) + "\nlast")
    assert "a.txt, line 1 is longer than 1 MiB" in refused(path)
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert plain(read(path, skip_bad=True)) == [(1, "last")]
