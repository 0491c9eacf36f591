from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm

from bench.pages.power import pairs, power, prompts
from diffusers_ext.evaluate.statistics import mcnemar


def rejections(n, change, discordant, experiments=4000):
    """Return the share of simulated experiments in which McNemar's exact p is at most 0.05."""
    odds = [(discordant + change) / 2, (discordant - change) / 2, 1 - discordant]
    wins, losses, _ = np.random.default_rng(0).multinomial(n, odds, size=experiments).T
    counts, times = np.unique(np.stack([wins, losses]), axis=1, return_counts=True)
    rejects = [mcnemar(won, lost) <= 0.05 for won, lost in counts.T.tolist()]
    return times[rejects].sum() / experiments


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


def test_prompts_with_seeds_that_are_alike_see_as_much_as_unrelated_pairs():
    """Simulate differences of 1, -1 and 0 that two seeds of a prompt share in half of the cases.

    The variance of their mean over the prompts equals the variance over as many unrelated pairs as they count
    for.
    """
    change, discordant, seeds, alike = 0.05, 0.2, 4, 0.5
    count = prompts(change, discordant, seeds, alike)
    rng, values = np.random.default_rng(1), [1, -1, 0]
    odds = [(discordant + change) / 2, (discordant - change) / 2, 1 - discordant]
    shape = 2000, count
    shared = rng.choice(values, p=odds, size=(*shape, 1))
    own = rng.choice(values, p=odds, size=(*shape, seeds))
    # A seed takes the difference of its prompt or one of its own; two of a prompt are alike if both take it.
    common = rng.random((*shape, seeds)) < np.sqrt(alike)
    means = np.where(common, shared, own).mean((1, 2))
    assert means.var() == pytest.approx((discordant - change**2) / pairs(change, discordant), rel=0.08)


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
