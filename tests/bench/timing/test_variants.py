"""Test that variants of a kernel are checked and timed in turns with what sessions run."""

import json
import os
import subprocess
import sys

import pytest
import torch

from bench.gpu import environment
from bench.gpu_part import ROOT
from bench.timing import variants
from bench.timing.forms import LOOKED, SHIPPED, forms
from bench.timing.session_calls import SessionCall


def test_a_cpu_runs_other_tiles_and_a_later_run_measures_nothing_twice(tmp_path, monkeypatch):
    found = variants.main(["--device", "cpu", "--out", str(tmp_path)])
    assert [row["variant"] for row in found] == ["half key blocks", "upright tiles", "half key blocks"]
    for row in found:
        assert row["ok"] and 0 < row["error"] < 1e-6 and row["gain_low"] <= row["gain"] <= row["gain_high"]
    monkeypatch.delattr(variants, "in_turns")
    assert variants.main(["--device", "cpu", "--out", str(tmp_path)]) == found


def test_a_gpu_also_runs_the_forms_and_flex_for_one_plan():
    named = [set(variants.variants(case, "cuda")) for case in variants.chosen("cuda")]
    for names in named:
        assert {LOOKED, "pointers", "64 keys", "half key blocks"} <= names
    assert sum(variants.FLEX in names for names in named) == 1
    assert set(forms("cpu")) == {SHIPPED} < set(forms("cuda"))


@pytest.mark.parametrize("case", variants.chosen("cpu"), ids=lambda case: case.name)
def test_the_plans_are_those_of_sessions(case):
    mine = variants.built(case, None).build()
    placed = SessionCall(case, "cpu", lambda q, k, v: q).placed
    for name in ("row_ptr", "col", "q_coord", "k_coord"):
        assert torch.equal(getattr(mine, name), getattr(placed.plan, name))


@pytest.mark.slow  # the interpreter of Triton takes half a minute
def test_every_form_computes_the_same(tmp_path):
    words = [sys.executable, "-m", "bench.timing.variants", "--device", "cpu", "--out", str(tmp_path)]
    env = environment([]) | {"TRITON_INTERPRET": "1"}
    subprocess.run(words, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    (path,) = tmp_path.iterdir()
    assert path.name == f"variants-cpu-{os.uname().machine}.json"
    rows = json.loads(path.read_text())["rows"]
    assert {LOOKED, "pointers", "64 keys"} <= {row["variant"] for row in rows}
    assert all(row["ok"] for row in rows)
