"""Test the rates on a CPU, and that each check beside a time can fail."""

import json

import pytest
import torch

from bench.gpu_fit import RULES, fits
from bench.timing import forms, rates
from bench.timing.listed import FIELDS, TINY, listed_error
from diffusers_ext.kernels.block_sparse import reference
from diffusers_ext.kernels.masks.visible import visible


def run(folder, *words):
    return rates.main(["--device", "cpu", "--out", str(folder), *words])


def test_every_part_is_timed_checked_and_enough_for_a_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "SECONDS", 0.0)
    found = run(tmp_path, "--only", "ceiling")
    assert [row["unit"] for row in found] == ["TFLOP/s", "GB/s", "TFLOP/s"]
    found = run(tmp_path)
    assert all(
        row["ok"] and row["low_ms"] <= row["ms"] <= row["high_ms"] and row["rate"] > 0 for row in found
    )
    kinds = {row["case"].partition(":")[0] for row in found}
    assert kinds == {"ceiling", "blocks", "gather", "select", "host"}
    attention = [row for row in found if row["case"].startswith("blocks")]
    assert {row["rule"] for row in attention} == set(RULES) and all(
        0 < row["error"] < 1e-5 for row in attention
    )
    (fit,) = fits(found)
    assert set(fit.partial) == set(RULES)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["rows"] == found, "of both runs"


@pytest.mark.parametrize("fields", [TINY, FIELDS], ids=["tiny", "of a GPU"])
def test_rows_visit_as_many_blocks_and_see_some_keys(fields):
    assert set(fields) == set(RULES)
    for field in fields.values():
        plan = field.plan(4, False, "cpu")
        assert plan.rows == plan.s_q // plan.block_q == plan.s_kv // plan.block_k and plan.full_share == 0
        assert plan.row_ptr[0].diff().eq(4).all() and plan.visited == 4 * plan.rows
        assert (plan.col[0].view(-1, 4).diff() > 0).all()
        assert field.plan(4, True, "cpu").full_share == 1
        assert plan.form.checked and plan.form.computed == field.ruled != plan.form.looked_up
        assert field.plan(4, True, "cpu").form.checked == field.ruled
        rows = torch.arange(0, plan.s_q, plan.s_q // 16 + 1)
        own = plan.k_coord.view(-1, plan.block_k)[rows // plan.block_q]
        seen = visible(plan.kind, plan.params, plan.table, plan.q_coord[rows, None], own)
        assert seen.any(1).all()
        seen = visible(plan.kind, plan.params, plan.table, plan.q_coord[rows, None], plan.k_coord)
        assert field.ruled == bool((~seen).any())


@pytest.mark.parametrize("full", [True, False], ids=["FULL", "PARTIAL"])
@pytest.mark.parametrize("name", RULES)
def test_the_error_sees_a_block_too_many_and_another_rule(name, full):
    plan = TINY[name].plan(3, full, "cpu")
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, plan.s_q, 2, 16, generator=g)
    out = forms.shipped(q, k, v, plan)
    assert listed_error(q, k, v, out, plan) < 1e-6
    assert listed_error(q, k, v, reference.attention(q, k, v, TINY[name].plan(4, full, "cpu"))[0], plan) > 0.1
    if name != "none":
        assert listed_error(q, k, v, out, TINY[name].plan(3, not full, "cpu")) > 0.01
