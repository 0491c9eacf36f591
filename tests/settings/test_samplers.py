"""Test samplers from text: names with numbers, chains, settings, and records of them."""

import json

import pytest

import diffusers_ext as dx
from diffusers_ext.settings.assign import assigned, takers
from diffusers_ext.settings.registry import SAMPLERS
from diffusers_ext.settings.samplers import (
    Named,
    as_dict,
    build,
    chained,
    classes_of,
    main_count,
    named,
    parts,
    settable,
    transforms,
)


def test_a_number_in_a_name_is_its_count():
    assert named("best-of-n") == Named("best-of-n", "best-of-n")
    assert named("best-of-8") == Named("best-of-8", "best-of-n", 8)
    assert named("ttsnap-12") == Named("ttsnap-12", "ttsnap", 12)
    assert build(named("best-of-8"), {"budget": 90}) == dx.BestOfN(n=8, budget=90)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_sampler_is_found_and_has_a_number_or_none(kind):
    cls = named(kind).cls
    assert cls.name == kind
    count = main_count(cls)
    assert transforms(cls) if count is None else count in settable(cls)
    assert not {"rewards", "noise", "refine"} & set(settable(cls))


def test_columns_name_methods_and_samplers():
    assert parts("plain") == ([], [])
    assert parts("softpag + best-of-8+ reno") == (["softpag"], [named("best-of-8"), named("reno")])


@pytest.mark.parametrize(
    "text, match",
    [
        ("bestof8", "unknown method or sampler 'bestof8'; nearest is 'best-of-n', valid are plain"),
        ("softpg", "nearest is 'softpag'"),
        ("reno+reno", "a column has each name once, got 'reno.reno'; name reno once"),
        ("plain+reno", "plain means nothing else"),
        ("npnet-4", "npnet has no number to set, got 'npnet-4'; write npnet"),
        ("", "unknown method or sampler ''"),
    ],
)
def test_bad_columns(text, match):
    with pytest.raises(ValueError, match=match):
        for sampler in parts(text)[1]:
            build(sampler, {})


def test_numbers_are_given_once_and_in_bounds():
    with pytest.raises(ValueError, match="best-of-8 sets n to 8, and 4 came as a setting"):
        build(named("best-of-8"), {"n": 4})
    with pytest.raises(dx.MethodError, match="BestOfN n must be 1 or more, got 0"):
        build(named("best-of-0"), {})
    with pytest.raises(dx.MethodError, match="budget must be 1 or more, got 0"):
        build(named("best-of-n"), {"budget": 0})


def test_settings_go_to_the_label_to_the_kind_or_to_all():
    samplers = [named("best-of-4"), named("best-of-8"), named("ttsnap")]
    classes, kinds = classes_of(["softpag"], samplers)
    found = takers(["budget=3", "best-of-n.seconds=2", "best-of-8.seconds=1", "scale=2"], classes, kinds)
    assert found == [
        ("best-of-4", "budget", "3"),
        ("best-of-8", "budget", "3"),
        ("ttsnap", "budget", "3"),
        ("best-of-4", "seconds", "2"),
        ("best-of-8", "seconds", "2"),
        ("best-of-8", "seconds", "1"),
        ("softpag", "scale", "2"),
    ]
    assert assigned(["keep=[0.5, 0.25]"], {"ttsnap": classes["ttsnap"]}) == {"ttsnap": {"keep": [0.5, 0.25]}}
    with pytest.raises(ValueError, match="has no setting 'rewards'"):
        takers(["rewards=3"], classes, kinds)


def test_chains_refine_and_transforms_come_first():
    first, second = dx.BestOfN(n=2), dx.ReNO(iterations=3)
    assert chained([]) is None and chained([first]) is first
    assert chained([first, second]) == dx.BestOfN(n=2, refine=second)

    class Doubled(dx.BestOfN):
        name = "doubled"

        def __call__(self, host, noise):
            return 2 * noise

    double = Doubled()
    assert transforms(Doubled) and not transforms(dx.BestOfN)
    made = chained([double, first, second])
    assert made.noise is double and made.refine == second and made.n == 2


def test_records_hold_what_moves_pixels():
    sampler = dx.TTSnap(n=5, keep=(0.5, 0.5), budget=70, keep_pictures=True, micro_batch=2)
    sampler = chained([sampler, dx.ReNO(iterations=4)])
    facts = [{"name": "shapes-clip", "weight": 1.0}]
    data = json.loads(json.dumps(as_dict(sampler, facts)))
    assert data["name"] == "ttsnap" and data["rewards"] == facts and data["refine"]["name"] == "reno"
    assert "keep_pictures" not in data and "micro_batch" not in data
    assert (data["n"], data["keep"], data["budget"]) == (5, [0.5, 0.5], 70)


def test_a_network_in_a_record_is_known_by_its_weights():
    import torch

    def record(bias):
        layer = torch.nn.Linear(2, 2)
        for weight in layer.parameters():
            torch.nn.init.constant_(weight, bias)
        return as_dict(chained([dx.BestOfN(noise=layer)]))["noise"]

    assert record(1.0) == record(1.0) != record(2.0) and record(1.0).startswith("Linear ")


def test_a_reward_that_prunes_is_an_object():
    def redness(images, prompts):
        return images[:, 0].mean((1, 2))

    assert "prune_reward" not in settable(dx.TTSnap)
    found = as_dict(dx.TTSnap(rewards=redness, prune_reward=redness))
    assert "redness" in found["prune_reward"]
