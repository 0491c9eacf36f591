"""Test the report of samplers: chart, table and page."""

import json
from io import BytesIO

import numpy as np
from matplotlib.text import Text
from PIL import Image

from diffusers_ext.evaluate.cells import Column, Variant
from diffusers_ext.evaluate.pareto import figures
from diffusers_ext.evaluate.report.pareto import EACH, FILE, chart, write
from diffusers_ext.evaluate.report.plot import encoded
from tests.evaluate.report.test_comparison import Page
from tests.evaluate.test_pareto import column


def found(n=12, names=("plain", "best-of-8", "ttsnap", "reno")):
    costs = [30.0, 240.0, 236.0, 240.0][: len(names)]
    columns = [
        column([i % (2 + k) == 0 for i in range(n)], c, [0.1 * i for i in range(n)])
        for k, c in enumerate(costs)
    ]
    variants = [Variant(name) for name in names]
    facts = {"model": "m", "suite": "held-out", "reward_names": "shapes-clip", "call": {"steps": 3}}
    return variants, columns, facts | figures(variants, columns)


def test_names_are_at_the_points_and_not_on_each_other():
    _, _, results = found()
    figure = chart(results, "a title")
    encoded(figure)
    for axes in figure.axes:
        assert [t.get_text() for t in axes.texts] != [] and len(axes.texts) == 4
        boxes = [Text.get_window_extent(t) for t in axes.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert axes.get_xscale() == "log"
        low, high = axes.get_ylim()
        assert all(low <= t.xyann[1] <= high for t in axes.texts)
    assert [axes.get_ylabel() for axes in figure.axes] == ["right pictures, %", "mean reward, shapes-clip"]


def test_without_a_ground_truth_there_is_one_panel():
    _, _, results = found()
    for facts in results["methods"].values():
        facts["overall"] = None
    assert len(chart(results, "a title").axes) == 1


def test_the_same_figures_give_the_same_bytes():
    _, _, results = found()
    assert encoded(chart(results, "t")) == encoded(chart(results, "t"))


def png(judged):
    buffer = BytesIO()
    Image.fromarray(np.full((64, 64, 3), judged.seed, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_all_files_are_written_and_the_page_needs_no_other(tmp_path):
    variants, columns, results = found()
    shown = [Column(v.label, judged, png) for v, judged in zip(variants, columns, strict=True)]
    files = write(tmp_path, results, variants, shown, "A <title>", ["one remark"])
    assert [f.name for f in files] == ["table.md", "pareto.png", "pareto.svg", FILE, "results.json"]
    assert json.loads(files[-1].read_text()) == json.loads(json.dumps(results))
    table = files[0].read_text()
    assert "| plain | 30 | 50 % (" in table and "one remark" in table
    page = Page((tmp_path / FILE).read_text())
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 1 + EACH * 4 and all(a["src"].startswith("data:image/png") for a in pictures)
    for text in (
        "A <title>",
        "evaluations",
        "mean reward",
        "reward 0.100",
        "ttsnap minus plain",
        "one remark",
    ):
        assert text in page.text
