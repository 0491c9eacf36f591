"""`backend="auto"`: it stays dense where the back-end that would run is known, or bound, to lose."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import RunContext
from diffusers_ext.kernels.block_sparse.gains import MARGIN

from .sparse.test_method import SITE, dense, layout_of


def placed(method, side, text=0):
    run = RunContext()
    run.layout = layout_of((1, side, side), text, front=True)
    core = method.bind(SITE, run, dense)
    core.begin_call(torch.zeros(1))
    return next(iter(core.ready.values()))


@pytest.mark.parametrize(
    "side, text, backend",
    [
        (48, 0, "dense"),
        (64, 0, "reference"),
        (64, 512, "dense"),
        (112, 0, "reference"),
        (80, 512, "reference"),
    ],
)
def test_a_cpu_gains_from_few_blocks_only_and_plans_say_the_same(side, text, backend, monkeypatch):
    """One disk: dense attention grows with the square of the tokens, the reference with the tokens."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    method = dx.CLEAR(radius=8)
    found = placed(method, side, text)
    assert found.backend == backend
    forecast = dx.plan(dx.Grid(1, side, side, text=text), method, device="cpu")
    assert forecast.note == (found.why if backend == "dense" else "")
    assert (forecast.expected_speedup >= MARGIN) == (backend == "reference")
    assert forecast.device == "a CPU core (as timed on a CPU)"
    assert placed(dx.CLEAR(radius=8, backend="reference"), side, text).backend == "reference"


def test_triton_keeps_its_own_limit(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert placed(dx.CLEAR(radius=8), 64).backend == "triton"
    found = placed(dx.CLEAR(radius=16), 32)
    assert found.backend == "dense" and "which takes triton 2.28 times as long (model)" in found.why
    assert dx.plan(dx.Grid(1, 32, 32), dx.CLEAR(radius=16)).note == found.why


def test_a_forecast_says_on_what_a_gain_is_expected():
    """Where a GPU gains, the note says what a machine without one would do."""
    found = {name: dx.plan(dx.Grid(1, 64, 64), dx.CLEAR(radius=16), device=name) for name in ("cpu", "h200")}
    assert found["h200"].device == "H100/H200 (model)" and found["h200"].expected_speedup > MARGIN
    assert found["h200"].note == f"auto stays dense where triton cannot run: {found['cpu'].note}"
    expected = f"{found['h200'].expected_speedup:.2f}x expected on H100/H200 (model)"
    assert expected in str(found["h200"])
    with pytest.raises(dx.MethodError, match=r"A device is one of cpu, a100, .*got 'tpu'"):
        dx.plan(dx.Grid(1, 64, 64), dx.CLEAR(radius=8), device="tpu")


def test_a_forecast_holds_a_named_back_end_to_its_own_limit():
    size, flex = dx.Grid(1, 48, 48), dx.CLEAR(radius=8, backend="flex")
    assert "takes flex" in dx.plan(size, flex).note and "as timed on a CPU" in dx.plan(size, flex).note
    assert dx.plan(dx.Grid(1, 64, 64), dx.CLEAR(radius=8, backend="triton")).note == ""
