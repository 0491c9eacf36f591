import json

import pytest

from diffusers_ext.evaluate.score import Judged
from diffusers_ext.evaluate.store import FILE, Store

IDENTITY = {"weights": "ab" * 32, "call": {"steps": 3}}
ITEMS = [Judged("a red circle", i, "single_object", bool(i % 2), "because", 0.1) for i in range(4)]


def test_verdicts_come_back(tmp_path):
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    again = Store(tmp_path, IDENTITY)
    assert [again.get("[]", j.prompt, j.seed) for j in ITEMS] == ITEMS
    assert again.get("other", "a red circle", 0) is None
    assert again.get("[]", "a red circle", 9) is None


def test_a_line_cut_by_a_crash_is_dropped_and_the_rest_kept(tmp_path):
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-20])
    again = Store(tmp_path, IDENTITY)
    assert len(again.done) == 3
    again.add("[]", ITEMS[3:])
    assert list(Store(tmp_path, IDENTITY).done.values()) == ITEMS


def test_a_crash_in_the_first_line_starts_over(tmp_path):
    (tmp_path / FILE).write_text('{"weights": "ab')
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    assert len(Store(tmp_path, IDENTITY).done) == 4


def test_what_two_writers_left_is_read(tmp_path):
    """Two writers both began with the identity and made the same pictures."""
    first, second = Store(tmp_path, IDENTITY), Store(tmp_path, IDENTITY)
    for store in (first, second):
        store.add("[]", ITEMS)
    assert (tmp_path / FILE).read_text().count("weights") == 2
    assert list(Store(tmp_path, IDENTITY).done.values()) == ITEMS


def test_a_store_that_was_removed_is_not_begun_in_the_middle(tmp_path):
    store = Store(tmp_path, IDENTITY)
    store.add("[]", ITEMS[:2])
    (tmp_path / FILE).unlink()
    with pytest.raises(OSError, match="cannot write"):
        store.add("[]", ITEMS[2:])
    assert not list(tmp_path.iterdir())


def test_repeated_lines_are_harmless(tmp_path):
    store = Store(tmp_path, IDENTITY)
    store.add("[]", ITEMS)
    store.add("[]", ITEMS)
    assert len(Store(tmp_path, IDENTITY).done) == 4


@pytest.mark.parametrize("change", [{"weights": "cd" * 32}, {"call": {"steps": 4}}])
def test_other_results_are_never_mixed(tmp_path, change):
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    before = (tmp_path / FILE).read_bytes()
    (key,) = change
    with pytest.raises(ValueError, match=f"results with different {key} .* choose another --out"):
        Store(tmp_path, IDENTITY | change)
    assert (tmp_path / FILE).read_bytes() == before


def test_folders_without_the_configs_of_a_model_know_no_better(tmp_path):
    """Such folders were written before configs counted; folders begun now must match in them."""
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    assert len(Store(tmp_path, IDENTITY | {"configs": "a"}).done) == 4
    new = tmp_path / "new"
    new.mkdir()
    Store(new, IDENTITY | {"configs": "a"}).add("[]", ITEMS)
    with pytest.raises(ValueError, match=r"results with different configs .* choose another --out"):
        Store(new, IDENTITY | {"configs": "b"})


def test_a_folder_is_claimed_by_the_first_verdict(tmp_path):
    """A run that is refused before its first verdict leaves the folder to others."""
    Store(tmp_path, IDENTITY)
    assert not list(tmp_path.iterdir())
    other = IDENTITY | {"call": {"steps": 4}}
    Store(tmp_path, other).add("[]", ITEMS)
    assert list(Store(tmp_path, other).done.values()) == ITEMS


def test_damage_is_named_by_line(tmp_path):
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    lines = (tmp_path / FILE).read_text().splitlines()
    lines[2] = "{" + lines[2]
    (tmp_path / FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"line 3 of .* is not JSON"):
        Store(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    "number, change, words",
    [
        (1, lambda line: [line], "line 1 of .* must tell the model and its call, got "),
        (1, lambda line: None, "line 1 of .* must tell the model and its call, got null"),
        (3, lambda line: line | {"colour": 1}, "line 3 of .* is no verdict: it has an unknown 'colour'"),
        (2, lambda line: {k: v for k, v in line.items() if k != "prompt"}, "line 2 .*: it has no 'prompt'"),
        (2, lambda line: {k: v for k, v in line.items() if k != "variant"}, "line 2 .*: it has no 'variant'"),
        (5, lambda line: [1, 2], r"line 5 .*: it must be an object, got \[1, 2\]"),
        (4, lambda line: line | {"seed": [0]}, r"line 4 .*: seed takes a whole number, got \[0\]"),
    ],
)
def test_lines_of_something_else_are_one_sentence(tmp_path, number, change, words):
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    lines = (tmp_path / FILE).read_text().splitlines()
    lines[number - 1] = json.dumps(change(json.loads(lines[number - 1])))
    (tmp_path / FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=words + ".*; choose another --out$"):
        Store(tmp_path, IDENTITY)


def test_verdicts_of_older_versions_are_read(tmp_path):
    """Older lines lack the fields with a default."""
    Store(tmp_path, IDENTITY).add("[]", ITEMS)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    for line in lines[1:]:
        del line["swapped"]
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(Store(tmp_path, IDENTITY).done.values()) == ITEMS


def test_lines_are_plain_json(tmp_path):
    Store(tmp_path, IDENTITY).add("[]", ITEMS[:1])
    first, second = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert first == IDENTITY
    assert second["correct"] is False and second["task"] == "single_object"
