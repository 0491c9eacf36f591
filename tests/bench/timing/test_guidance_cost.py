"""Test the cost of guidance on tiny models: what is checked, and what a stopped run leaves."""

import json
import math

import pytest

from bench.timing import guidance_cost
from tests.tiny_models import flux, sd3


def run(folder):
    return guidance_cost.main(["--device", "cpu", "--repeats", "1", "--seconds", "0", "--out", str(folder)])


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
    assert [(r["model"], r["tokens"]) for r in rows] == [("SD3", 16)] * 5 + [("FLUX", 16)] * 5
    assert all((r["error"] == 0) == (r["expected"] == 1) and r["check"] != "FAILED" for r in rows)


def test_a_model_that_cannot_be_built_leaves_the_other(tmp_path, monkeypatch):
    def broken(device):
        known = tiny(device)
        first = lambda: sd3.transformer(num_layers=-1), *known["SD3"][1:]
        return {"SD3": first, "FLUX": (*known["FLUX"][:2], [4])}

    monkeypatch.setattr(guidance_cost, "models", broken)
    with pytest.raises(SystemExit, match="error: 5 of the cases failed"):
        run(tmp_path)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert [r["model"] for r in record["rows"]] == ["FLUX"] * 5 and len(record["failed"]) == 5


def test_the_interval_of_a_median():
    """It holds the true median as often as a coin says, and one value has no other interval."""
    assert guidance_cost.order_statistics(1) == (0, 0)
    for n in (9, 20, 101):
        low, high = guidance_cost.order_statistics(n)
        below = [math.comb(n, k) / 2**n for k in range(n + 1)]  # k of n values below the true median
        assert sum(below[low + 1 : high + 1]) >= 0.95 > sum(below[low + 2 : high])
