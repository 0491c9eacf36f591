import pytest

from diffusers_ext.evaluate.suite import noise, questions
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.suites import IMAGE_TASKS, SPLITS, TASKS

OLDEST = ["single_object", "two_object", "three_object", "counting", "position"]


@pytest.mark.parametrize("name", SPLITS)
def test_questions_fit_their_task_and_split(name):
    found = questions(name, 12)
    assert [q.task for q in found] == [t for t in (*OLDEST, "color_attr") for _ in range(12)]
    assert {q.task for q in found} == set(IMAGE_TASKS)
    for q in found:
        spec = parse(q.item.prompt)
        assert spec.task == q.task or (q.task == "color_attr" and spec.swapped)
        assert spec.held_out == (name == "held-out")


def test_committed_results_can_be_made_again():
    """Prompts and noise of the first five tasks have not changed since there was a sixth."""
    found = questions("held-out", 2)
    assert [q.item.seed for q in found[::2]] == [*range(50_000, 100_000, 10_000), 10**15 + 10_000]
    assert [q.item.prompt for q in found if q.task == "two_object"] == [
        "a blue square and a pink square",
        "a green square and an orange cross",
    ]
    assert questions("held-out", 2, tasks=OLDEST) == found[:10]


def test_every_task_has_noise_of_its_own():
    assert len({noise("tuning", task, 7) for task in TASKS}) == len(TASKS)


def test_noise_never_repeats_within_or_between_suites():
    seeds = [q.item.seed for name in SPLITS for s in (0, 1) for q in questions(name, 30, s)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= q.item.seed < 2**63 for q in questions("tuning", 3, 2**63 - 1))


def test_more_questions_keep_the_first_ones():
    few, many = questions("held-out", 5, 3), questions("held-out", 9, 3)
    assert [q for i, q in enumerate(many) if i % 9 < 5] == few


@pytest.mark.parametrize(
    "name, n, tasks, match",
    [
        ("test", 5, OLDEST, "unknown suite 'test'; the suites are"),
        ("tuning", 0, OLDEST, "got 0"),
        ("tuning", 5, ["colour"], "unknown task 'colour'; the tasks are single_object"),
    ],
)
def test_bad_input(name, n, tasks, match):
    with pytest.raises(ValueError, match=match):
        questions(name, n, tasks=tasks)
