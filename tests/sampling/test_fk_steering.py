"""Weights are those of the paper, particles are drawn in proportion, and copies part ways."""

import math

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.best_of_n import BestOfN
from diffusers_ext.sampling.fk_steering import FKSteering, Pool, drawn, potential, settled

from ..close import alike
from ..hosts import built
from ..tiny_models import sd3
from .searches import counted, failing_at, on, redness, sample, unchanged

OFTEN = dict(start=2, every=2, stop=8, renoise=1.0)
REWARDS = [[0.1, 0.5, 0.3], [0.2, 0.1, 0.6], [0.4, 0.4, 0.5]]  # of three particles at three steps


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle(kind, lam):
    """The product of the weights of each particle over the steps, without draws, as the paper writes it."""
    products = []
    for rewards in zip(*REWARDS, strict=True):
        product, so_far = 1.0, []
        for reward in rewards:
            so_far.append(reward)
            if kind == "diff":
                product *= math.exp(lam * (reward - (so_far[-2] if len(so_far) > 1 else 0.0)))
            elif kind == "max":
                product *= math.exp(lam * max(so_far))
            elif kind == "add":
                product *= math.exp(lam * sum(so_far))
            else:
                product *= math.exp(lam * reward)
        products.append(product)
    return [product / sum(products) for product in products]


@pytest.mark.parametrize("lam", [0.5, 10.0])
@pytest.mark.parametrize("kind", ["diff", "max", "add", "rt"])
def test_weights_are_those_of_the_paper(kind, lam):
    before, total = None, torch.zeros(3, dtype=torch.float64)
    for rewards in REWARDS:
        gain, before = potential(kind, torch.tensor(rewards, dtype=torch.float64), before)
        total += lam * gain
    assert torch.softmax(total, 0).tolist() == pytest.approx(oracle(kind, lam))


@pytest.mark.parametrize("kind", ["diff", "max", "add", "rt"])
def test_a_pool_adds_up_weights_until_it_draws(kind):
    pool = Pool(FKSteering(rewards=redness, lam=10, potential=kind, ess=0.0), dice(), 3)
    for rewards in REWARDS:
        assert pool.draw(torch.tensor(rewards)) == [0, 1, 2]  # more than none are always effective
    assert torch.softmax(pool.weights, 0).tolist() == pytest.approx(oracle(kind, 10.0), rel=1e-5)


def test_a_pool_draws_where_few_are_effective():
    pool = Pool(FKSteering(rewards=redness, lam=1000, ess=0.5), dice(), 4)
    assert pool.draw(torch.tensor([0.5, 0.5, 0.5, 0.5])) == [0, 1, 2, 3]
    assert pool.draw(torch.tensor([0.5, 0.9, 0.5, 0.5])) == [1, 1, 1, 1]
    assert pool.weights.tolist() == [0.0] * 4 and pool.before.tolist() == pytest.approx([0.9] * 4)


@pytest.mark.parametrize("how", ["stratified", "multinomial"])
def test_particles_are_drawn_in_proportion(how):
    share, generator = torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.float64), dice()
    counts = torch.zeros(4)
    for _ in range(2000):
        counts += torch.bincount(torch.tensor(drawn(share, how, generator)), minlength=4)
    assert (counts / counts.sum()).tolist() == pytest.approx(share.tolist(), abs=0.02)
    assert counts[2] == 0


def test_equal_weights_draw_each_once():
    assert [drawn(torch.full((7,), 1 / 7), "stratified", dice(i)) for i in range(5)] == [list(range(7))] * 5


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [3, 3, 3, 3], [0, 0, 3, 3], [2, 2, 1, 0], [1, 2, 3, 3]])
def test_the_chosen_stay_where_they_are(chosen):
    found = settled(chosen)
    assert sorted(found) == sorted(chosen)
    assert all(found[k] == k for k in set(chosen))


def test_a_reward_without_a_number_is_never_drawn():
    pool = Pool(FKSteering(rewards=redness, lam=0.0), dice(), 4)
    assert set(pool.draw(torch.tensor([0.5, torch.nan, 0.1, 0.2]))) == {0, 2, 3}


@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "wan"])
def test_copies_part_ways_and_costs_are_those_of_the_denoiser(name):
    found, pipe = built(name)
    rows = counted(pipe, found.layer)
    result = on(found, FKSteering(rewards=redness, lam=1e5, n=4, **OFTEN), pipe=pipe)
    assert sum(rows) == result.nfe == 4 * 8 * 2
    scores = [c.score for c in result.history if c.score is not None]
    assert len(scores) == len(set(scores)) == 4 and result.scores[0] == max(scores)
    # with so large a factor the best takes all, whose copies were three new candidates at each of three draws
    assert len(result.history) == 4 + 3 * 3
    ended = [c for c in result.history if c.dropped is not None]
    assert sorted(c.dropped for c in ended) == [2] * 3 + [4] * 3 + [6] * 3


def test_the_noise_of_the_scheduler_is_enough():
    found, pipe = built("sd")
    how = OFTEN | {"renoise": 0.0}
    for more in ({"eta": 1.0}, {}):
        if not more:
            pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
        result = on(found, FKSteering(rewards=redness, lam=1e5, **how), pipe=pipe, **more)
        scores = [c.score for c in result.history if c.score is not None]
        assert len(set(scores)) == 4


@pytest.mark.parametrize("name, kind", [("sd", EulerDiscreteScheduler), ("sd3", None)])
def test_steps_without_noise_are_refused(name, kind):
    found, pipe = built(name)
    if kind is not None:
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
    says = f"{type(pipe.scheduler).__name__} adds no noise in its steps here; take DDIM with eta above 0"
    with pytest.raises(MethodError, match=says):
        on(found, FKSteering(rewards=redness, start=1, every=2), pipe=pipe)


def test_a_constant_reward_changes_nothing():
    found, pipe = built("sd")

    def same(images, prompts):
        return torch.zeros(len(images))

    how = OFTEN | {"renoise": 0.0}
    a = on(found, FKSteering(rewards=same, **how), pipe=pipe, eta=1.0)
    b = on(found, BestOfN(rewards=same, n=4), pipe=pipe, eta=1.0)
    alike(a.images, b.images)
    assert len(a.history) == 4


def test_one_particle_is_the_plain_picture():
    pipe = sd3.pipeline()
    a = sample(FKSteering(rewards=redness, n=1), pipe=pipe)
    assert torch.equal(a.images, sample(BestOfN(rewards=redness, n=1), pipe=pipe).images)


def test_a_solver_goes_on_with_the_steps_of_the_copied():
    """Copies of a particle have its past, also where the scheduler keeps it."""
    found, pipe = built("wan")
    result = on(found, FKSteering(rewards=redness, lam=1e5, start=5, every=9, renoise=1e-6), pipe=pipe)
    scores = torch.tensor([c.score for c in result.history if c.score is not None])
    alike(scores, scores[:1].expand(4))


@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_groups_of_any_size_find_the_same(name):
    found, pipe = built(name)
    results = [
        on(found, FKSteering(rewards=redness, micro_batch=m, **OFTEN), pipe=pipe, steps=6) for m in (None, 3)
    ]
    alike(results[0].images, results[1].images)


def test_each_prompt_has_particles_of_its_own():
    pipe = sd3.pipeline()
    both = sample(FKSteering(rewards=redness, **OFTEN), ["a", "b"], pipe=pipe)
    alone = sample(FKSteering(rewards=redness, **OFTEN), "a", pipe=pipe)
    alike(both.images[:1], alone.images)


@pytest.mark.parametrize("call", [1, 3])
def test_the_pipeline_stays_as_it_was(call):
    pipe = sd3.pipeline()
    with unchanged(pipe), pytest.raises(RuntimeError, match="broken"):
        sample(FKSteering(rewards=failing_at(call), **OFTEN), pipe=pipe)


def test_nan_for_all_is_an_error():
    with pytest.raises(MethodError, match="nothing gave no finite number for each of 4 candidates"):
        sample(FKSteering(rewards=nothing, **OFTEN))


def nothing(images, prompts):
    return torch.full((len(images),), torch.nan)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(n=0), "n must be 1 or more, got 0"),
        (dict(lam=-1), "lam must"),
        (dict(every=0), "every must be 1 or more, got 0"),
        (dict(potential="sum"), r"diff \| max \| add \| rt"),
        (dict(start=8), "from step start=8 to stop=30, and before the last of 10 steps there is none"),
        (dict(start=5, stop=4), "from step start=5 to stop=4"),
        (dict(ess=2), "ess must"),
        (dict(budget=5), "fk-steering needs 20 evaluations for one candidate, got budget=5"),
    ],
)
def test_bad_settings_in_a_sentence(given, says):
    with pytest.raises(MethodError, match=says):
        sample(FKSteering(rewards=redness, **given))
