"""The benchmark script runs as it is on a CPU, with its checks, so that a GPU session can trust it."""

import json

import pytest

from bench import sparse_kernels


def test_runs_and_checks_itself(tmp_path):
    (row,) = sparse_kernels.main(["--device", "cpu", "--only", "tiny", "--out", str(tmp_path)])
    assert row.ok and 0 < row.error < 1e-5 and row.sparse_ms > 0
    (path,) = tmp_path.glob("sparse_kernels-*.json")
    assert json.loads(path.read_text())["rows"][0]["case"] == row.case


def test_unknown_case_is_one_sentence():
    with pytest.raises(SystemExit, match="no case for cpu"):
        sparse_kernels.main(["--device", "cpu", "--only", "nothing like it"])
