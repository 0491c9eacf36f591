import pytest

from diffusers_ext.zoo.world.suites import SPLITS, TASKS, split_of, suite


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint_and_keep_their_promise(task):
    found = {split: set(suite(split, task, 200)) for split in SPLITS}
    assert not found["train-like"] & found["tuning"]
    assert all(spec.held_out for spec in found["held-out"])
    assert not any(spec.held_out for spec in found["train-like"] | found["tuning"])
    assert all(
        (spec.task == task or task == "color_attr") and split_of(spec) == split
        for split, specs in found.items()
        for spec in specs
    )


def test_attribute_binding_needs_two_colours_and_two_shapes():
    for first, second in (spec.objects for split in SPLITS for spec in suite(split, "color_attr", 100)):
        assert first.colour != second.colour and first.shape != second.shape


@pytest.mark.parametrize("split", SPLITS)
def test_a_suite_is_fixed_by_its_arguments_and_grows_at_the_end(split):
    short, long = suite(split, "two_object", 10, seed=1), suite(split, "two_object", 20, seed=1)
    assert long[:10] == short
    assert suite(split, "two_object", 10, seed=2) != short


def test_nothing_comes_twice_before_all_came_once():
    specs = suite("held-out", "single_object", 20)
    assert len(set(specs[:8])) == 8 and specs[8:16] == specs[:8]


@pytest.mark.parametrize("split, task", [("test", "counting"), ("tuning", "count")])
def test_unknown_names_are_refused(split, task):
    with pytest.raises(ValueError, match="pick from these"):
        suite(split, task, 1)
