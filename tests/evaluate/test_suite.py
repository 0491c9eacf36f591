import pytest

from diffusers_ext.evaluate.score import TASKS
from diffusers_ext.evaluate.suite import SPLITS, questions
from diffusers_ext.zoo.captions import parse


@pytest.mark.parametrize("name", SPLITS)
def test_questions_fit_their_task_and_split(name):
    found = questions(name, 12)
    assert [q.task for q in found] == [t for t in TASKS for _ in range(12)]
    for q in found:
        spec = parse(q.item.prompt)
        assert spec.task == q.task
        assert spec.held_out == (name == "held-out")


def test_noise_never_repeats_within_or_between_suites():
    seeds = [q.item.seed for name in SPLITS for s in (0, 1) for q in questions(name, 30, s)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= q.item.seed < 2**63 for q in questions("tuning", 3, 2**63 - 1))


def test_more_questions_keep_the_first_ones():
    few, many = questions("held-out", 5, 3), questions("held-out", 9, 3)
    assert [q for i, q in enumerate(many) if i % 9 < 5] == few


@pytest.mark.parametrize(
    "name, n, match", [("test", 5, "unknown suite 'test'; the suites are"), ("tuning", 0, "got 0")]
)
def test_bad_input(name, n, match):
    with pytest.raises(ValueError, match=match):
        questions(name, n)
