"""Places of a schedule are shares or numbers, in order and before the last step."""

import pytest

from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.steps import check_places, steps_at


def test_shares_are_rounded_and_numbers_stay():
    assert steps_at("at", (0.35, 0.6), 20) == [7, 12]
    assert steps_at("at", (2, 6, 11), 20) == [2, 6, 11]
    assert steps_at("at", (0,), 20) == [0]
    assert steps_at("at", (), 20) == []


@pytest.mark.parametrize("places", [(0.6, 0.35), (0.4, 0.4), (3, 2), (0.5, 2), (-1,), (2.5,), (1, 1)])
def test_other_places_are_refused(places):
    with pytest.raises(MethodError, match="at takes steps in rising order"):
        check_places("at", places)


@pytest.mark.parametrize("places, steps", [((0.35, 0.6), 3), ((19,), 20), ((25,), 20), ((0.31, 0.34), 10)])
def test_places_that_a_call_has_not_are_refused(places, steps):
    check_places("at", places)
    with pytest.raises(MethodError, match=f"this call has steps 0 to {steps - 1}, got"):
        steps_at("at", places, steps)
