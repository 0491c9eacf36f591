import pytest

from diffusers_ext.training.recipes import Schedule


def test_schedule_warms_up_stays_and_decays():
    plan = Schedule(100, 600, 1000)
    assert plan.factor(0) < 0.02 and plan.factor(100) == plan.factor(600) == 1
    assert plan.factor(800) == pytest.approx(0.5) and plan.factor(1000) == 0
    assert Schedule.plan(1000, 100, 0.4) == plan


def test_an_empty_schedule_is_refused():
    with pytest.raises(ValueError, match="raise the total"):
        Schedule(0, 10, 10)
