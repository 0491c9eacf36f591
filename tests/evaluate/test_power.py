from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm

from diffusers_ext.evaluate.power import independent, pairs, power, prompts
from diffusers_ext.evaluate.statistics import mcnemar


def rejections(n, change, discordant, experiments=4000):
    """Share of simulated experiments in which McNemar's exact p is at most 0.05."""
    wins, losses, _ = (
        np.random.default_rng(0)
        .multinomial(
            n, [(discordant + change) / 2, (discordant - change) / 2, 1 - discordant], size=experiments
        )
        .T
    )
    counts, times = np.unique(np.stack([wins, losses]), axis=1, return_counts=True)
    return (
        sum(t for (w, lost), t in zip(counts.T.tolist(), times, strict=True) if mcnemar(w, lost) <= 0.05)
        / experiments
    )


@pytest.mark.parametrize("change, discordant", [(0.1, 0.3), (-0.1, 0.2), (0.2, 0.5), (0.05, 0.05)])
def test_power_is_that_of_simulated_experiments(change, discordant):
    n = pairs(change, discordant)
    assert power(n, change, discordant) == pytest.approx(0.8, abs=0.02)
    assert rejections(n, change, discordant) == pytest.approx(0.8, abs=0.025)  # 4 standard errors


def test_a_fifth_of_the_pairs_is_not_enough():
    assert rejections(pairs(0.1, 0.3) // 5, 0.1, 0.3) < 0.3


@pytest.mark.parametrize("discordant", [0.05, 0.2, 0.5])
def test_large_samples_follow_the_normal_approximation(discordant):
    """The exact test is a little conservative: up to 7 % more pairs at these sizes, never fewer."""
    change = 0.03
    za, zb = norm.ppf(0.975), norm.ppf(0.8)
    normal = (za * sqrt(discordant) + zb * sqrt(discordant - change**2)) ** 2 / change**2
    assert normal <= pairs(change, discordant) <= 1.07 * normal


def test_seeds_of_one_prompt_count_for_less():
    alone = pairs(0.05, 0.2)
    assert prompts(0.05, 0.2, seeds=1, alike=0.5) == alone
    assert prompts(0.05, 0.2, seeds=4, alike=0.0) == -(-alone // 4)
    assert prompts(0.05, 0.2, seeds=4, alike=1.0) == alone


def test_the_design_effect_is_the_variance_of_clustered_differences():
    """Differences that share half of their variance within a prompt: 1 + 3 / 2 at four seeds."""
    rng = np.random.default_rng(1)
    shared, own = rng.normal(size=(20_000, 1)), rng.normal(size=(20_000, 4))
    means = ((shared + own) / sqrt(2)).mean(1)
    assert means.var() * 4 == pytest.approx(1 + 3 * 0.5, rel=0.05)


def test_unrelated_accuracies_differ_most():
    assert independent(0.5, 0.5) == 0.5 and independent(0.9, 0.9) == pytest.approx(0.18)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: pairs(0.3, 0.2), "between the change and 1"),
        (lambda: power(10, 0.0, 0.2), "between the change and 1"),
        (lambda: prompts(0.1, 0.2, 0, 0.0), "one seed or more"),
        (lambda: prompts(0.1, 0.2, 2, 1.5), "alike by 0 to 1"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
