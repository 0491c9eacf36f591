import numpy as np
import pytest

from diffusers_ext.evaluate.report.plot import accuracies, blank, points, save
from tests.bench.pages.test_results_table import measured


def lines(axes):
    """Return the drawn points in percent."""
    return [container.lines[0].get_ydata().tolist() for container in axes.containers]


def bars(axes):
    """Return the ends of the drawn intervals [points, 2] in percent."""
    return [[s[:, 1].tolist() for s in c.lines[2][0].get_segments()] for c in axes.containers]


def test_one_variant_shows_its_points_and_intervals():
    found = measured(False)
    (axes,) = accuracies(found, "plain").axes
    entry = found["tasks"]["single_object"]
    assert lines(axes) == [[60.0, 60.0]]
    assert np.allclose(bars(axes)[0][0], [100 * entry["low"], 100 * entry["high"]])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["single\nobject", "overall"]


def test_a_method_adds_its_points_and_the_differences():
    upper, lower = accuracies(measured(True), "softpag").axes
    assert lines(upper) == [[60.0, 60.0], [80.0, 80.0]]
    assert np.allclose(lines(lower), 20.0)
    assert lower.get_ylabel() == "softpag minus plain, points"


def test_a_point_outside_its_interval_is_drawn():
    axes = blank(2, 2).subplots()
    points(axes, [0], [{"accuracy": 0.5, "low": 0.6, "high": 0.7}], "accuracy", "x", 0)
    assert np.allclose(bars(axes)[0][0], [50, 70])


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("a", "b"):
        save(accuracies(measured(True), "softpag"), tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize("with_method", [False, True])
def test_the_svg_is_text_that_can_be_searched(tmp_path, with_method):
    _, svg = save(accuracies(measured(with_method), "softpag"), tmp_path / "accuracy")
    assert "shapes-x, held-out prompts, 10 a task" in svg.read_text()
