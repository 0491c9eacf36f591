"""Test what both detector studies share: pairs, tables, batches, and requirements on a model."""

import numpy as np
import pytest

from bench.studies import detector_study
from bench.studies.detector_study import NOTHING, by_word, matched, readings, share, table


def test_pairs_have_the_least_distance_in_all_within_reach():
    cost = np.array([[1.0, 2.0], [0.5, 9.0]])
    assert matched(["a", "b"], ["x", "y"], cost, [5, 5]) == [("a", "y"), ("b", "x")]
    assert matched(["a", "b"], ["x", "y"], cost, [1, 5]) == [("a", NOTHING), ("b", "x"), (NOTHING, "y")]
    assert matched([], ["x"], np.zeros((0, 1)), []) == [(NOTHING, "x")]


def test_objects_fall_into_colours_and_shapes():
    pairs = [("red circle", "blue star"), ("red circle", NOTHING), (NOTHING, "green blob")]
    colours, shapes = by_word(pairs)
    assert colours == [("red", "blue"), ("red", NOTHING), (NOTHING, "green")]
    assert shapes == [("circle", "star"), ("circle", NOTHING), (NOTHING, "blob")]


def test_tables_count_by_what_was_drawn():
    pairs = [("a", "a"), ("a", "b"), ("a", "a")]
    assert table(pairs) == {"a": {"a": 2, "b": 1}}
    names = ("a", "b", NOTHING)
    assert table(pairs, names, names) == {
        "a": {"a": 2, "b": 1, NOTHING: 0}, "b": {"a": 0, "b": 0, NOTHING: 0}, NOTHING: {"a": 0, "b": 0},
    }  # fmt: skip


def test_a_share_of_nothing_is_none():
    assert share([]) is None and share([True, False])["accuracy"] == 0.5


@pytest.mark.parametrize("count", [1, detector_study.BATCH, detector_study.BATCH + 1])
def test_batches_keep_the_order(count):
    found = readings(range(count), lambda i: np.full((2, 2, 3), i), lambda i, a, b: (i, a.max(), b.max()))
    assert list(found) == [(i, i, i) for i in range(count)]


@pytest.mark.parametrize(
    "model, told", [("shapes-clip", "is a reward"), ("nobody/nothing", "a folder with a vae")]
)
def test_what_has_no_autoencoder_is_refused_in_one_sentence(model, told):
    with pytest.raises(SystemExit, match=f"^error: .*{told}.*"):
        detector_study.load_vae(model, "AutoencoderKL")
