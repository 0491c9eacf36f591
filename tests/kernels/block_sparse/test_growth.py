"""The benchmark of growth: its fit, and the work of each method, which needs no clock."""

import pytest

from bench.growth import Row, fits, main, recipes, slope


def test_the_slope_is_that_of_a_power():
    sizes = [100.0, 1000.0, 5000.0, 20000.0]
    assert slope(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    rows = [Row("m", "b", int(n), int(n), n, n**2, 0.0, True) for n in sizes]
    found = fits(rows)
    assert found["m, b"] == pytest.approx({"time": 1, "work": 1}) and found["dense"]["time"] == pytest.approx(
        2
    )


def test_work_grows_as_the_papers_say():
    sizes = [4096, 16384, 65536]
    work = {name: [] for name, _ in recipes(sizes[0])}
    for tokens in sizes:
        for name, recipe in recipes(tokens):
            work[name].append(float(recipe.survey().work))
    exponents = {name: slope([float(n) for n in sizes], values) for name, values in work.items()}
    assert exponents["clear r=8"] < 1.06 and exponents["gna 17x17"] < 1.06
    assert 1.0 < exponents["radial"] < 1.3  # n log n


def test_three_sizes_are_needed(capsys):
    with pytest.raises(SystemExit):
        main(["--largest", "1024"])
    assert "4096 or more, got 1024" in capsys.readouterr().err
