"""What a search may spend: counts, limits, time, a request to stop, and the bar."""

import pytest

from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.budget import Bar, Budget, State, Stopped


def test_a_backward_pass_counts_as_two_evaluations_more():
    budget = Budget(10)
    budget.spend(4, gradients=2)
    assert (budget.evaluations, budget.gradients, budget.cost) == (4, 2, 8)
    budget.check(2)
    with pytest.raises(Stopped, match="its budget of 10 evaluations is spent"):
        budget.check(3)
    with pytest.raises(Stopped, match="is spent"):
        budget.check(1, gradients=1)


def test_time_ends_a_search():
    budget = Budget(seconds=1e-9)
    with pytest.raises(Stopped, match="its 1e-09 seconds are over"):
        budget.check()


def test_someone_ends_a_search():
    asked = []
    budget = Budget(stop=lambda: bool(asked))
    budget.check()
    asked.append(1)
    with pytest.raises(Stopped, match="someone asked to stop"):
        budget.check()


def test_no_limit_by_default():
    budget = Budget()
    budget.spend(10**9)
    budget.check(10**9)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(limit=0), "a number of evaluations, 1 or more, got 0"),
        (dict(seconds=0), "above 0, got 0"),
        (dict(seconds=float("nan")), "above 0, got nan"),
    ],
)
def test_refused_in_a_sentence(given, says):
    with pytest.raises(MethodError, match=says):
        Budget(**given)


def test_the_watcher_sees_how_far_it_is():
    seen = []
    budget = Budget(watch=seen.append)
    budget.planned, budget.step, budget.steps, budget.best = 12, 1, 3, (None, 0.5)
    budget.spend(4)
    assert seen[0].seconds >= 0
    assert seen == [State(4, 12, 1, 3, seen[0].seconds, (None, 0.5))]


def test_the_bar_shows_evaluations_step_and_best(capsys):
    bar = Bar("best-of-n", True)
    bar(State(4, 12, 1, 3, 0.1, (None, 0.5)))
    shown = capsys.readouterr().err
    bar.close()
    assert "best-of-n" in shown and "4/12" in shown and "step 1 of 3, best 0.500" in shown


def test_no_bar_where_none_is_wanted(capsys):
    bar = Bar("best-of-n", False)
    bar(State(4, 12, 1, 3, 0.1, ()))
    bar.close()
    assert capsys.readouterr().err == ""
