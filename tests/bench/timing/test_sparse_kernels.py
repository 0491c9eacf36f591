"""Test that attention is timed as sessions run it, on a CPU first, with checks that can fail."""

import json
from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from bench.timing import reference_rows, sparse_kernels
from bench.timing.block_cases import Case, cases, tiny_cases
from bench.timing.session_calls import ATTENTION, SessionCall
from bench.timing.slices import SLICES
from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec

RECTIFIED = DynamicPlanSpec((1, 9, 14), 5, (1, 4, 4), (1, 4, 4), 0.1, touching=False, text_rows=False)


def test_every_case_runs_and_checks_itself(tmp_path):
    found = sparse_kernels.main(["--device", "cpu", "--out", str(tmp_path)])
    assert all(row["ok"] and 0 < row["error"] < 1e-5 for row in found)
    assert [row["case"] for row in found] == [case.name for case in tiny_cases()] + [sparse_kernels.TRAINING]
    for row in found:
        assert row["sparse_ms"] > 0 and row["dense_ms"] > 0 and row["n"] >= 3 and 0 < row["cost"] <= 1
        joint = "wan2.1" not in row["case"] and row["case"] != sparse_kernels.TRAINING
        assert (row["text_ms"] > 0) == joint
        assert (row["choice_ms"] > 0) == ("rectified" in row["case"])
    (path,) = tmp_path.glob("sparse_kernels-*.json")
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == [row["case"] for row in found]


def test_a_case_that_fails_in_the_middle_leaves_the_others(tmp_path, monkeypatch, capsys):
    first, second, *_ = tiny_cases()
    broken = replace(first, method=dx.Radial(backend="reference"), size={"height": 128, "width": 176})
    monkeypatch.setattr(sparse_kernels, "tiny_cases", lambda: [first, broken, second])
    with pytest.raises(SystemExit, match=r"^error: 1 of the cases failed \(flux.1 176x128 tiny radial\)"):
        sparse_kernels.main(["--device", "cpu", "--only", "tiny", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("sparse_kernels-*.json")
    record = json.loads(path.read_text())
    assert [row["case"] for row in record["rows"]] == [first.name, second.name]
    (why,) = record["failed"].values()
    assert why.startswith("UnsupportedError: ") and f"FAILED: {why}" in capsys.readouterr().out


def test_cases_of_a_gpu_have_plans_and_names_of_their_own():
    every = [case.name for case in sparse_kernels.all_cases()]
    assert len(set(every)) == len(every) and {case.model for case in cases()} == set(ATTENTION)
    quick = [case.name for case in sparse_kernels.quick_cases(sparse_kernels.KERNELS)]
    assert len(quick) == len(set(quick)) == len(sparse_kernels.KERNELS) and {*quick} <= {*every}


@pytest.mark.parametrize("model", ATTENTION)
def test_heads_and_text_are_those_of_the_model(model):
    """The slices have published widths; their sites say how many heads, and their calls where the text is."""
    slice_, facts = SLICES[model], ATTENTION[model]
    with torch.device("meta"):
        published = slice_.kind(**slice_.config)
    (denoiser,) = dx.summary(published).denoisers
    sites = [site for site in denoiser[3] if site.kind != "cross"]
    assert {(site.heads, site.head_dim) for site in sites} == {(facts.heads, facts.channels)}
    case = next(case for case in tiny_cases() if case.model == model)
    tiny = slice_.build(True, "cpu", torch.float32)
    with dx.apply(tiny, case.method) as session, torch.no_grad():
        tiny(**slice_.call(tiny, case.grid, "cpu", torch.float32))
        assert session.run.layout == SessionCall(case, "cpu", lambda *x: x[0]).layout


def test_tokens_of_flux_are_put_in_order_once_and_those_of_clips_are_not():
    square = Case("flux.1", {"height": 256, "width": 512, "text": 7}, dx.CLEAR(3, backend="reference"), True)
    once = SessionCall(square, "cpu", dense)
    assert once.once and once.facts()["once"] and len(once.gathers()) == 2
    frames = {"height": 256, "width": 256, "num_frames": 5}
    clip = Case("wan2.1", frames, dx.GNA((2, 3, 5), dense_steps=0, backend="reference"), True)
    every = SessionCall(clip, "cpu", dense)
    assert not every.once and len(every.gathers()[0]) == 2
    for call in (once, every):
        assert call.error() < 1e-6
        kernel = call.kernel()
        out = call.everything()[:, call.layout.vision]
        assert out.shape == kernel[:, : call.layout.tokens].shape
    assert torch.equal(every.everything(), every.kernel().index_select(1, every.placed.inverse))


def dense(q, k, v):
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)


def operands(plan, heads=2):
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, plan.s_kv, heads, 32, generator=g)
    return q[:, : plan.s_q], k, v


def attend_chosen(q, k, v, plan, found):
    chosen = replace(plan, row_ptr=found.row_ptr, col=found.col)
    return api.attention(q, k, v, chosen, gain=found.gain, bias=found.bias)[0]


def test_the_error_of_rectified_rows_sees_a_wrong_choice_and_a_missing_correction():
    plan = RECTIFIED.build()
    q, k, v = operands(plan)
    found = select(q, k, v, plan)
    out = attend_chosen(q, k, v, plan, found)
    assert reference_rows.rectified_error(q, k, v, out, plan, found) < 1e-6
    other = select(-q, k, v, plan)
    assert reference_rows.rectified_error(q, k, v, out, plan, other) > 0.1
    plain = found._replace(gain=torch.ones_like(found.gain), bias=torch.zeros_like(found.bias))
    assert not found.gain.eq(1).all() and reference_rows.rectified_error(q, k, v, out, plan, plain) > 1e-3


def test_rectified_attention_that_keeps_all_blocks_is_dense():
    plan = replace(RECTIFIED, keep=1.0, touching=True).build()
    q, k, v = operands(plan)
    out = attend_chosen(q, k, v, plan, select(q, k, v, plan))
    real = torch.cat([torch.arange(plan.s_q), torch.arange(plan.s_kv - plan.text, plan.s_kv)])
    assert reference_rows.rms_ratio(out, dense(q, k[:, real], v[:, real])) < 1e-6
