from itertools import product

import numpy as np
import pytest

from diffusers_ext.evaluate.statistics import accuracy, bootstrap, mcnemar, newcombe, paired, wilson


@pytest.mark.parametrize(
    "k, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(k, n, low, high):
    """Values are from Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    "cells, low, high",
    [((36, 2, 12, 0), 0.0569, 0.3404), ((36, 12, 2, 0), -0.3404, -0.0569), ((54, 0, 0, 0), -0.0664, 0.0664)],
)
def test_newcombe_against_published_values(cells, low, high):
    """Values are from Newcombe 1998, Statistics in Medicine 17, 2635, table IV, method 10."""
    assert newcombe(*cells) == pytest.approx((low, high), abs=5e-5)


def test_newcombe_covers_its_level():
    rng = np.random.default_rng(0)
    cells = np.array([0.3, 0.1, 0.2, 0.4])  # both, only a, only b, neither: the true difference is 0.1
    hits = [low <= 0.1 <= high for low, high in (newcombe(*rng.multinomial(60, cells)) for _ in range(600))]
    assert 0.93 <= np.mean(hits) <= 0.98


def test_mcnemar_by_hand():
    assert mcnemar(12, 2) == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert mcnemar(2, 12) == mcnemar(12, 2)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0


def test_accuracy():
    found = accuracy([True] * 15 + [False] * 5)
    assert (found.accuracy, found.n) == (0.75, 20)
    assert (found.low, found.high) == wilson(15, 20)


def test_paired_counts_and_direction():
    a = [True, True, False, False, False]
    b = [True, False, True, True, False]
    found = paired(a, b)
    assert (found.wins, found.losses, found.n) == (2, 1, 5)
    assert found.difference == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    assert found.interval == "newcombe"
    assert (found.low, found.high) == newcombe(1, 1, 2, 1)


def test_equal_lists_still_have_an_interval():
    found = paired([True, False] * 10, [True, False] * 10, groups=["a", "b"] * 10)
    assert found.difference == 0 and found.p == 1
    assert found.low < 0 < found.high


def test_repeated_prompts_widen_the_interval():
    """Ten copies of each prompt carry no more information than one, and the interval must say so."""
    a = np.zeros(100, bool)
    b = np.repeat(np.array([True, False] * 5), 10)
    prompts = np.repeat(np.arange(10), 10).tolist()
    apart, together = paired(a, b), paired(a, b, prompts)
    assert together.interval == "bootstrap over prompts"
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_bootstrap_matches_the_normal_approximation_and_repeats():
    values = np.random.default_rng(1).normal(0.5, 1.0, 400)
    low, high = bootstrap(values, range(400))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert bootstrap(values, range(400)) == (low, high)


def test_bootstrap_weighs_prompts_by_their_images():
    """Compare uneven prompts with all resamples; equal weights for all prompts would give other means."""
    values = {"a": [1.0], "b": [0.0, 1.0, 0.0, 0.0, 1.0, 0.0], "c": [1.0, 1.0]}
    values |= {"d": [-1.0, 0.0, 1.0], "e": [-1.0]}
    groups = [name for name, own in values.items() for _ in own]
    found = bootstrap([v for some in values.values() for v in some], groups, level=0.8, draws=40_000)
    every = list(product(values, repeat=len(values)))
    means = [np.mean([v for name in names for v in values[name]]) for names in every]
    assert found == pytest.approx(np.quantile(means, [0.1, 0.9]), abs=0.01)
    even = [np.mean([np.mean(values[name]) for name in names]) for names in every]
    assert np.abs(np.quantile(means, [0.1, 0.9]) - np.quantile(even, [0.1, 0.9])).min() > 0.05


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: accuracy([]), "at least one verdict, got none"),
        (lambda: paired([True], [True, False]), "equal length, got 1 and 2"),
        (lambda: paired([], []), "at least one item, got none"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
