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


def test_a_folder_is_claimed_by_the_first_verdict(tmp_path):
    """What is refused before it has judged anything leaves the folder to others."""
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


def test_lines_are_plain_json(tmp_path):
    Store(tmp_path, IDENTITY).add("[]", ITEMS[:1])
    first, second = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert first == IDENTITY
    assert second["correct"] is False and second["task"] == "single_object"
