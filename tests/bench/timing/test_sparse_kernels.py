"""Test that the benchmark script runs unchanged on a CPU, with its checks, before a GPU session."""

import json
from dataclasses import replace

import pytest
import torch

from bench.timing import reference_rows, sparse_kernels
from diffusers_ext.kernels.block_sparse.select import select


def test_runs_and_checks_itself(tmp_path):
    found = sparse_kernels.main(["--device", "cpu", "--only", "tiny", "--out", str(tmp_path)])
    assert all(row["ok"] and 0 < row["error"] < 1e-5 and row["sparse_ms"] > 0 for row in found)
    (path,) = tmp_path.glob("sparse_kernels-*.json")
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == [row["case"] for row in found]
    assert {row["case"].split()[1] for row in found} == {"clear", "rectified"}


def test_a_case_that_fails_in_the_middle_leaves_the_others(tmp_path, monkeypatch, capsys):
    broken = replace(CLEAR, name="tiny broken", head_dim=-1)
    monkeypatch.setattr(sparse_kernels, "cases", lambda: [CLEAR, broken, RECTIFIED])
    with pytest.raises(SystemExit, match=r"^error: 1 of the cases failed \(tiny broken\); see the table\.$"):
        sparse_kernels.main(["--device", "cpu", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("sparse_kernels-*.json")
    record = json.loads(path.read_text())
    assert [row["case"] for row in record["rows"]] == [CLEAR.name, RECTIFIED.name]
    (told,) = record["failed"].values()
    assert told.startswith("RuntimeError: ") and f"FAILED: {told}" in capsys.readouterr().out


CLEAR, RECTIFIED = sparse_kernels.cases()[:2]


def operands(plan, heads=2):
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, plan.s_kv, heads, 32, generator=g)
    return q[:, : plan.s_q], k, v


def test_the_error_of_rectified_rows_sees_a_wrong_choice_and_a_missing_correction():
    plan = replace(RECTIFIED, rule=0.1).plan_spec()
    plan = replace(plan, touching=False).build()
    q, k, v = operands(plan)
    found = select(q, k, v, plan)
    out = reference_rows.attend_chosen(q, k, v, plan, found)
    assert reference_rows.rectified_error(q, k, v, out, plan, found) < 1e-6
    other = select(-q, k, v, plan)
    assert reference_rows.rectified_error(q, k, v, out, plan, other) > 0.1
    plain = found._replace(gain=torch.ones_like(found.gain), bias=torch.zeros_like(found.bias))
    assert not found.gain.eq(1).all() and reference_rows.rectified_error(q, k, v, out, plan, plain) > 1e-3


def test_rectified_attention_that_keeps_all_blocks_is_dense():
    plan = replace(RECTIFIED, rule=1.0).plan_spec().build()
    q, k, v = operands(plan)
    found = select(q, k, v, plan)
    out = reference_rows.attend_chosen(q, k, v, plan, found)
    tokens, text = plan.s_q, RECTIFIED.text
    real = torch.cat([torch.arange(tokens), torch.arange(plan.s_kv - text, plan.s_kv)])
    heads_first = (x.transpose(1, 2) for x in (q, k[:, real], v[:, real]))
    dense = torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)
    assert reference_rows.rms_ratio(out, dense) < 1e-6
