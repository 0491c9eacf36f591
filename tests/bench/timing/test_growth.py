"""Test the benchmark of growth: its fit, and the work of each method, which needs no clock."""

import json

import pytest

from bench.timing import growth
from bench.timing.growth import METHODS, SIZES, fastest, fits, frame, main, plan_spec, slope


def test_the_slope_is_that_of_a_power():
    sizes = [100.0, 1000.0, 5000.0, 20000.0]
    assert slope(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    rows = [
        {"method": "m", "backend": "b", "tokens": int(n), "work": int(n), "ms": n, "dense_ms": n**2}
        for n in sizes
    ]
    found = fits(rows)
    assert found["m, b"] == pytest.approx({"time": 1, "work": 1})
    assert found["dense"]["time"] == pytest.approx(2)


def test_work_grows_as_the_papers_say():
    sizes = [4096, 16384, 65536]
    work = {m: [float(plan_spec(m, tokens, (16, 16)).stats.work) for tokens in sizes] for m in METHODS}
    exponents = {name: slope([float(n) for n in sizes], values) for name, values in work.items()}
    assert exponents["clear r=8"] < 1.06 and exponents["gna 17x17"] < 1.06
    assert 1.0 < exponents["radial"] < 1.3  # n log n


def test_three_sizes_are_needed(capsys):
    with pytest.raises(SystemExit):
        main(["--largest", "1024"])
    assert "4096 or more, got 1024" in capsys.readouterr().err


def test_the_largest_size_of_a_gpu_has_a_plan():
    sides = frame(max(SIZES))
    tokens = SIZES[-1]
    for method in METHODS:
        plan = plan_spec(method, tokens, sides).build()
        assert 0.8 * tokens <= plan.s_q <= tokens and plan.visited > 0
    assert frame(16384) == (16, 16) and frame(1 << 17) == (16, 16) and frame((1 << 17) + 1) == (16, 32)


def test_sizes_that_no_plan_addresses_are_refused_before_anything_runs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--largest", "600000", "--out", str(tmp_path)])
    assert "up to 524288 tokens, got 600000; choose a smaller size" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_fails_leaves_the_others(tmp_path, monkeypatch):
    """Only the reference runs, and one of nine cases has frames without tokens."""
    monkeypatch.setattr(growth, "SIZES", (576, 1024, 1296))
    monkeypatch.setattr(growth, "backends", lambda device: ("reference",))
    real = growth.plan_spec

    def broken(method, tokens, sides):
        return real(method, tokens, (0, 0) if (method, tokens) == ("radial", 1024) else sides)

    monkeypatch.setattr(growth, "plan_spec", broken)
    with pytest.raises(SystemExit, match=r"1 of the cases failed \(radial 1024 reference\)"):
        main(["--largest", "4096", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert [r["method"] for r in record["rows"]] == [
        method for tokens in growth.SIZES for method in METHODS if (method, tokens) != ("radial", 1024)
    ]
    assert "ZeroDivisionError" in record["failed"]["radial 1024 reference"] and record["waiting"] == []
    assert set(record["exponents"]) == {"clear r=8, reference", "gna 17x17, reference", "dense"}


def test_of_two_runs_the_fastest_times_count():
    row = {"method": "m", "backend": "b", "tokens": 9, "work": 5, "ms": 3.0, "dense_ms": 8.0, "error": 0.1}
    other = row | {"tokens": 16, "ms": 1.0}
    found = fastest(row, [other, row | {"ms": 4.0, "dense_ms": 7.0, "error": 0.2}])
    assert found == row | {"dense_ms": 7.0}
    assert fastest(row | {"plain_ms": 2.0}, [row]) == row | {"plain_ms": 2.0}
