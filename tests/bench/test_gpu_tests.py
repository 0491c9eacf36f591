"""Test the record of tests on a lent machine: rows, sentences of failures, names of waiting tests."""

import json

from bench.gpu_part import ROOT
from bench.gpu_tests import files, main
from tests.processes import Forked

TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError("no such disk")

def test_right(): pass
def test_wrong(): assert 1 == 2, "one is not two"
def test_setup(broken): pass
@pytest.mark.skip(reason="not today")
def test_skipped(): pass
def test_behind(): pass
@pytest.mark.gpu
def test_for_a_gpu(): pass
def test_{name}(): {body}
"""


def record(folder, *more, name="last", body="pass"):
    """Return the process and the record of a run over the file above, here on a CPU."""
    path = folder / "test_some.py"
    path.write_text(TESTS.format(name=name, body=body))
    words = ["--device", "cpu", "--out", str(folder / "out"), *map(str, (path, *more))]
    done = Forked(main, words)
    done.communicate()
    (written,) = (folder / "out").glob("tests-cpu-*.json")
    return done, json.loads(written.read_text())


def test_every_test_is_a_row(tmp_path):
    done, found = record(tmp_path)
    rows = {row["test"].partition("::")[2]: (row["outcome"], row["why"]) for row in found["rows"]}
    assert rows["test_right"] == rows["test_behind"] == rows["test_last"] == ("passed", "")
    assert rows["test_wrong"][0] == "failed" and "one is not two" in rows["test_wrong"][1]
    assert rows["test_setup"] == ("failed", "OSError: no such disk")
    assert rows["test_skipped"] == ("skipped", "Skipped: not today")
    assert "test_for_a_gpu" not in rows and found["waiting"] == [] and len(found["failed"]) == 2
    last = done.said[1].rstrip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: 2 of the cases failed (")


def test_a_file_that_cannot_be_read_is_a_failure_with_its_sentence(tmp_path):
    broken = tmp_path / "test_broken.py"
    broken.write_text("import nothing_there\n")
    done, found = record(tmp_path, broken)
    assert done.returncode == 1 and found["rows"] == []
    (why,) = found["failed"].values()
    assert "No module named 'nothing_there'" in why


def test_a_run_that_dies_leaves_the_rows_before_and_the_names_behind(tmp_path):
    done, found = record(tmp_path, name="dies", body="import os; os._exit(9)")
    assert done.returncode == 9 and len(found["rows"]) == 5
    assert [name.partition("::")[2] for name in found["waiting"]] == ["test_dies"]


def test_the_kernels_come_first():
    names = [path.name for path in files()]
    assert names[0] == "test_block_sparse.py" and "test_train.py" in names
    assert sorted(names) == sorted(p.name for p in (ROOT / "tests/gpu").glob("test_*.py"))
