"""Test the cost of guidance on tiny models: what is checked, and what a stopped run leaves."""

import json

import pytest

from bench.timing import guidance_cost
from tests.tiny_models import flux, sd3


def run(folder):
    return guidance_cost.main(["--device", "cpu", "--repeats", "1", "--out", str(folder)])


def tiny(device):
    """Make two toy models; the run is stopped at the second size of FLUX."""

    def images(model, side):
        return sd3.inputs(height=2 * side, width=2 * side)

    def stopped(model, side):
        if side == 6:
            raise KeyboardInterrupt
        return flux.inputs(height=side, width=side)

    return {
        "SD3": (lambda: sd3.transformer(num_layers=4), images, [4]),
        "FLUX": (flux.transformer, stopped, [4, 6]),
    }


def test_a_stopped_run_leaves_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(guidance_cost, "models", tiny)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    (path,) = tmp_path.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert [(r["model"], r["tokens"]) for r in rows] == [("SD3", 16)] * 4 + [("FLUX", 16)] * 4
    assert all((r["error"] == 0) == (r["expected"] == 1) and r["check"] != "FAILED" for r in rows)


def test_a_model_that_cannot_be_built_leaves_the_other(tmp_path, monkeypatch):
    def broken(device):
        known = tiny(device)
        first = lambda: sd3.transformer(num_layers=-1), *known["SD3"][1:]
        return {"SD3": first, "FLUX": (*known["FLUX"][:2], [4])}

    monkeypatch.setattr(guidance_cost, "models", broken)
    with pytest.raises(SystemExit, match="error: 4 of the cases failed"):
        run(tmp_path)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert [r["model"] for r in record["rows"]] == ["FLUX"] * 4 and len(record["failed"]) == 4
