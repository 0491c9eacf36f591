"""Test the timing of planning on the smallest cases; no seconds are asserted."""

import json

from bench.ledger import RESULTS
from bench.timing import planning

COMMITTED = RESULTS / "planning-cpu-x86_64.json"


def test_every_preset_and_the_largest_sizes_are_cases():
    names = planning.cases()
    assert {name.partition(",")[0] for name in names} >= {"flux.1", "hunyuan-video", "mochi", "sd3", "FLUX.1"}
    assert set(names) == {row["case"] for row in json.loads(COMMITTED.read_text())["rows"]}


def test_a_case_is_measured_and_written(tmp_path):
    (row,) = planning.main(["--only", "flux.1, gna", "--out", str(tmp_path)])
    assert row["seconds"] > 0 and row["ok"] and (row["grid"], row["text"]) == ([1, 64, 64], 512)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["rows"] == [row]
