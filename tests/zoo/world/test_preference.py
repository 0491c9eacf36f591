import numpy as np
import pytest
import torch

from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.detect import verify
from diffusers_ext.zoo.world.mistakes import KINDS, mistakes
from diffusers_ext.zoo.world.preference import pairs, preferences
from diffusers_ext.zoo.world.suites import split_of


def by_detector(images, prompts):
    """Score pictures by the detector, which knows the truth."""
    pictures = images.permute(0, 2, 3, 1).numpy()
    return torch.tensor([float(verify(i, parse(p)).correct) for i, p in zip(pictures, prompts, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_one_mistake_apart_and_the_truth_prefers_the_right_one(kind):
    found = pairs("held-out", kind, 12)
    assert all(split_of(p.spec) == "held-out" and p.wrong in mistakes(p.spec, kind) for p in found)
    assert preferences(by_detector, found) == ([True] * 12, [True] * 12)


def test_pairs_come_from_every_task_that_can_make_the_mistake():
    assert {p.spec.task for p in pairs("tuning", "colour", 10)} >= {"single_object", "counting", "position"}
    assert {p.spec.task for p in pairs("tuning", "relation", 5)} == {"position"}


def test_pairs_are_fixed_by_the_seed():
    first, again, other = (pairs("tuning", "swap", 3, seed) for seed in (0, 0, 1))
    assert all((a.image == b.image).all() and a.wrong == b.wrong for a, b in zip(first, again, strict=True))
    assert [p.spec for p in first] != [p.spec for p in other]


def test_ties_are_no_preference_and_changes_are_applied():
    found = pairs("tuning", "colour", 3)
    seen = []

    def constant(images, prompts):
        seen.append(images)
        return torch.zeros(len(prompts))

    assert preferences(constant, found, lambda images: 1 - images) == ([False] * 3, [False] * 3)
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0), 1 - found[0].image / 255, atol=1e-6)
