"""`backend="auto"`: it stays dense where the back-end that would run is known, or bound, to lose."""

import json
from pathlib import Path

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import RunContext
from diffusers_ext.kernels.block_sparse.capabilities import GAINS_UP_TO

from .sparse.test_method import SITE, dense, layout_of

GROWTH = Path(__file__).parents[2] / "bench/results/growth-cpu-x86_64.json"


@pytest.mark.parametrize("backend", ["reference", "flex"])
def test_limits_are_those_of_the_committed_times(backend):
    rows = [r for r in json.loads(GROWTH.read_text())["rows"] if r["backend"] == backend]
    density = {id(r): r["work"] / r["tokens"] ** 2 for r in rows}
    limit, _ = GAINS_UP_TO[backend]
    below = [r for r in rows if density[id(r)] <= limit]
    assert len(below) >= 4 and all(r["ms"] < r["dense_ms"] for r in below)
    assert any(r["ms"] > r["dense_ms"] for r in rows if density[id(r)] <= 1.5 * limit), "the limit is loose"


def placed(method, side, text=0):
    run = RunContext()
    run.layout = layout_of((1, side, side), text, front=True)
    core = method.bind(SITE, run, dense)
    core.begin_call(torch.zeros(1))
    return next(iter(core.ready.values()))


@pytest.mark.parametrize(
    "side, text, backend",
    [(48, 0, "dense"), (64, 0, "dense"), (64, 512, "dense"), (112, 0, "reference"), (112, 512, "dense")],
)
def test_a_cpu_gains_from_few_blocks_only_and_plans_say_the_same(side, text, backend, monkeypatch):
    """One disk: dense attention grows with the square of the tokens, the reference with the tokens."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    method = dx.CLEAR(radius=8)
    found = placed(method, side, text)
    assert found.backend == backend
    note = dx.plan(dx.Grid(1, side, side, text=text), method).note
    assert note == (f"auto stays dense where triton cannot run: {found.why}" if backend == "dense" else "")
    assert placed(dx.CLEAR(radius=8, backend="reference"), side, text).backend == "reference"


def test_triton_keeps_its_own_limit(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert placed(dx.CLEAR(radius=8), 64).backend == "triton"
    found = placed(dx.CLEAR(radius=16), 32)
    assert found.backend == "dense" and "triton gains up to 0.6, a guess until it is timed" in found.why
    assert dx.plan(dx.Grid(1, 32, 32), dx.CLEAR(radius=16)).note == found.why


def test_a_forecast_holds_a_named_back_end_to_its_own_limit():
    size, flex = dx.Grid(1, 64, 64), dx.CLEAR(radius=8, backend="flex")
    assert "flex gains up to 0.1, as timed on a CPU" in dx.plan(size, flex).note
    assert dx.plan(size, dx.CLEAR(radius=8, backend="triton")).note == ""
