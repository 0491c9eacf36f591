import json

import numpy as np
import pytest

from bench.pages.growth_chart import OUT, QUERY, RUN, SHOWN, SIDE, chart, seen, times
from bench.timing.growth import frame, plan_spec
from diffusers_ext.evaluate.report.plot import encoded

ROWS = json.loads(RUN.read_text())["rows"]


def test_the_grids_show_the_rules_that_were_timed():
    for _, method, rule in SHOWN.values():
        assert rule == plan_spec(method, SIDE**2, frame(SIDE**2)).rule


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_seen_is_what_the_rule_says(name):
    y, x = np.indices((SIDE, SIDE)) - np.array(QUERY)[:, None, None]
    disk, window = x**2 + y**2 < 8**2, (abs(x) <= 8) & (abs(y) <= 8)
    assert (seen(SHOWN[name][2]) == {"CLEAR": disk, "GNA": window}[name]).all()


def test_dense_attention_sees_everything():
    assert seen(None).all()


def test_times_are_those_of_one_back_end_in_order():
    tokens, sparse, dense = times(ROWS, "clear r=8")
    assert tokens == sorted(set(tokens)) and tokens[-1] == SIDE**2
    assert len(sparse) == len(dense) == len(tokens)


def test_the_committed_picture_is_one():
    assert OUT.read_bytes()[:8] == encoded(chart(ROWS))[:8] == b"\x89PNG\r\n\x1a\n"
    assert OUT.stat().st_size < 100_000
