"""Test that the bench of blocks runs on a CPU, resumes after a stop, and has checks that can fail."""

import json
from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from bench.runner import kept
from bench.timing import block_cases, blocks
from bench.timing.block_checks import Call, RecordCalls, call_error
from bench.timing.slices import SLICES, sharing_weights
from diffusers_ext.models.presets import shipped
from diffusers_ext.session.reorder import ONCE


def run(folder, *words):
    return blocks.main(["--device", "cpu", "--out", str(folder), *words])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return folder and rows of a run over every tiny case, one of them compiled as well."""
    folder = tmp_path_factory.mktemp("results")
    run(folder)
    return folder, run(folder, "--only", "wan2.1 128x96x9 tiny radial", "--modes", "eager", "compiled")


def test_every_family_and_method_is_checked(measured):
    _, rows = measured
    assert {row["case"].split()[0] for row in rows} == set(SLICES) <= set(shipped())
    assert {row["case"].split()[3] for row in rows} == {
        "clear",
        "gna",
        "radial",
        "rectified",
    }  # the sparse ones
    names = [case.name for case in block_cases.tiny_cases()]
    (radial,) = (name for name in names if "wan2.1" in name and "radial" in name)
    assert [blocks.name(row) for row in rows] == [f"{name} eager" for name in names] + [f"{radial} compiled"]
    for row in rows:
        assert row["ok"] and 0 < row["error"] < 1e-6 and row["parity"] == 0 and row["drift"] < 1e-5, row
        assert (row["backend"], row["why"]) == ("reference", "asked for") and 0 < row["density"] < 1
        assert 0 < row["attention_share"] <= 1 and row["gain_low"] <= row["gain"] <= row["gain_high"]


def test_every_pair_of_a_gpu_runs_here_too():
    def pairs(found):
        return {(c.model, c.method.name, bool(getattr(c.method, "downsample", 0))) for c in found}

    tiny = block_cases.tiny_cases()
    assert pairs(tiny) == pairs(block_cases.cases()) and len(tiny) == len(pairs(tiny)) > len(SLICES)
    asked = {case.model: case.grid.text > 0 for case in block_cases.cases()}
    for case in tiny:
        assert case.tiny and case.grid.t * case.grid.h * case.grid.w < 200
        assert (case.grid.text > 0) == asked[case.model] and case.method.refuses(case.grid.shape) is None


def test_a_later_run_goes_on_and_measures_nothing_twice(measured, capsys):
    folder, rows = measured
    (path,) = folder.glob("blocks-cpu-*.json")
    record = json.loads(path.read_text())
    assert len(record["rows"]) == len(rows)
    record["rows"] = [r for r in record["rows"] if "sd3.5" not in r["case"]]
    path.write_text(json.dumps(record))
    again = run(folder, "--minutes", "0")
    assert again == [row for row in rows if "sd3.5" not in row["case"]]
    assert "Cases left after 0.0 minutes: 1; run again to go on." in capsys.readouterr().out
    record["rows"][0]["sources"] = "another"
    path.write_text(json.dumps(record))
    found = kept(path, blocks.sources(), blocks.name).values()
    assert rows[0] not in found and rows[1] in found
    record["torch"] = "2.0"
    path.write_text(json.dumps(record))
    assert not kept(path, blocks.sources(), blocks.name)


def test_a_case_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    tiny = {(c.model, c.method.name): c for c in block_cases.tiny_cases()}
    video, image = tiny["wan2.1", "radial"], tiny["sd3.5", "gna"]
    wrong = replace(video, method=dx.CLEAR(2, backend="reference"))
    monkeypatch.setattr(blocks, "tiny_cases", lambda: [wrong, image])
    with pytest.raises(SystemExit, match="1 of the cases failed"):
        run(tmp_path)
    assert "FAILED: UnsupportedError: CLEAR needs one image" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert [r["case"] for r in record["rows"]] == [image.name] and record["waiting"] == []
    assert list(record["failed"]) == [f"{wrong.name} eager"]


@torch.no_grad()
def recorded(case):
    """Return a core of a slice with its inputs and output."""
    model = SLICES[case.model].build(True, "cpu", torch.float32)
    recorder = RecordCalls()
    with dx.apply(model, case.method, recorder) as session:
        model(**SLICES[case.model].call(model, case.grid, "cpu", torch.float32))
        cores = {site.name: core for site, core in session.cores(case.method).items()}
    name, call = next(iter(recorder.kept.items()))
    return cores[name], call


def test_tokens_that_a_session_puts_in_order_once_are_checked_and_timed_in_that_order(monkeypatch):
    method = dx.CLEAR(3, backend="reference")
    case = block_cases.Case("flux.1", {"height": 256, "width": 512, "text": 7}, method, tiny=True)
    core, call = recorded(case)
    assert call.order is not None and core.last.in_plan_order is False
    assert call_error(core, call) < 1e-6 < 0.1 < call_error(core, replace(call, order=None))
    attend, seen = type(core).__call__, []

    def watched(self, *given):
        seen.append(self.run.reordered)
        return attend(self, *given)

    monkeypatch.setattr(type(core), "__call__", watched)
    base = SLICES["flux.1"].build(True, "cpu", torch.float32)
    (row,) = blocks.measure(case, base, "cpu", torch.float32, ["eager"])
    assert row["ok"] and row["order"] == ONCE and seen and all(seen)


@pytest.mark.parametrize("case", block_cases.tiny_cases(), ids=lambda case: case.name)
def test_checks_see_wrong_attention(case):
    core, call = recorded(case)
    assert call_error(core, call) < 1e-6
    q, k, v, out = (getattr(call, name) for name in ("q", "k", "v", "out"))
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=call.mask
    ).transpose(1, 2)
    for wrong in (dense, out.roll(1, 1), out * 1.001):
        assert call_error(core, Call(q, k, v, call.mask, call.layout, wrong)) > 5e-4


def test_a_twin_shares_the_weights_and_nothing_else():
    model = SLICES["wan2.1"].build(True, "cpu", torch.bfloat16)
    other = sharing_weights(model)
    pairs = list(zip(model.parameters(), other.parameters(), strict=True))
    assert pairs and all(a is b for a, b in pairs)
    assert not set(map(id, model.modules())) & set(map(id, other.modules()))
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    assert dtypes["blocks.0.norm2.weight"] == torch.float32, "as loaders of the host keep it"
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16


def test_cases_of_a_gpu_fit_their_grids_and_promise_a_gain():
    names = [case.name for case in block_cases.cases()]
    assert len(set(names)) == len(names) and {name.split()[0] for name in names} == set(SLICES)
    small = [c for c in block_cases.cases() if c.model == "flux.1" and c.size["height"] == 1024]
    for case in [*small, *(c for c in block_cases.cases() if c.model == "sd3.5")]:
        assert dx.plan(case.grid, case.method).predicted_speedup > 1
    for case in block_cases.cases():
        assert case.method.refuses(case.grid.shape) is None
        assert (case.method.dense_steps, case.method.dense_layers, case.method.backend) == (0, 0, "triton")
    names = [case.name for case in block_cases.quick_cases()]
    assert len(set(names)) == len(names) == len(block_cases.QUICK)


def test_a_device_and_a_case_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^error: --device cuda needs a CUDA device .* --device cpu .*\.$"):
        blocks.main(["--device", "cuda"])
    with pytest.raises(SystemExit, match="no case for cpu has 'flux-3'"):
        blocks.main(["--device", "cpu", "--only", "flux-3"])


def pairs_of_family_method_and_mask():
    """Return every family under every method that takes its grids.

    Families that hide padding come with prompts of half of the length.
    """
    image = dx.CLEAR(2), dx.CLEAR(2, downsample=4), dx.GNA((1, 3, 5), (1, 2, 2)), dx.RectifiedSparse(block=16)
    video = dx.Radial(0.1, block=16), dx.GNA((2, 3, 5), (1, 2, 2)), dx.RectifiedSparse(block=16)
    for model, case in {case.model: case for case in block_cases.tiny_cases()}.items():
        masked = model in ("hunyuan-video", "mochi")
        for method in image if case.grid.t == 1 else video:
            for prompt in (0.5,) if masked else (None,):
                method = replace(method, backend="reference", dense_steps=0)
                name = f"{model} {method.name} {getattr(method, 'downsample', '') or ''} {prompt}"
                yield pytest.param(replace(case, method=method), prompt, id=name)


@pytest.mark.parametrize("case, prompt", list(pairs_of_family_method_and_mask()))
@torch.no_grad()
def test_rows_of_every_family_method_and_mask(case, prompt):
    """A batch has two rows; if padding is hidden, their prompts differ by a token."""
    part = SLICES[case.model]
    model = part.build(True, "cpu", torch.float32)
    call = part.call(model, case.grid, "cpu", torch.float32)
    call = {name: torch.cat([x, x]) if batched(name, x) else x for name, x in call.items()}
    if prompt is not None:
        words = max(1, int(prompt * case.grid.text))
        lengths = torch.tensor([words, max(1, words - 1)])
        call["encoder_attention_mask"] = torch.arange(case.grid.text) < lengths[:, None]
    recorder = RecordCalls()
    with dx.apply(model, case.method, recorder) as session:
        model(**call)
        cores = {site.name: core for site, core in session.cores(case.method).items()}
        sites = [site for site in session.report().sites if case.method.name in site.methods]
    assert recorder.kept.keys() == cores.keys() and {site.backend for site in sites} == {"reference"}
    assert all((found.mask is not None) == (prompt is not None) for found in recorder.kept.values())
    assert max(call_error(cores[name], found) for name, found in recorder.kept.items()) < 1e-6


def batched(name, x):
    """Return whether an argument has a row for each picture; positions of FLUX have none."""
    return isinstance(x, torch.Tensor) and not name.endswith("_ids")
