import pytest

from diffusers_ext.evaluate.words import change, difference, narrow, part, percent, points, right

SHARE = {"accuracy": 0.75, "low": 0.5312, "high": 0.8881, "n": 20}
PAIR = {"difference": 0.1, "low": -0.05, "high": 0.25, "wins": 3, "losses": 1, "p": 0.625, "n": 20}


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.004, "0"),
        (-0.004, "0"),
        (-0.005, "0"),
        (-0.006, "-1"),
        (0.1, "+10"),
        (-1, "-100"),
    ],
)
def test_points_have_a_sign_unless_they_are_zero(value, text):
    assert points(value) == text


def test_ten_pictures_or_more_have_intervals():
    assert percent(SHARE) == "75 % (53 to 89)" and narrow(SHARE) == "75 (53-89)"
    assert right(SHARE) == "75 % (53 to 89) of 20 right"
    assert right(SHARE, "pictures") == "75 % (53 to 89) of 20 pictures right"
    assert difference(PAIR) == "+10 points (-5 to +25), 3 wins, 1 loss, p = 0.62"
    assert change(PAIR | {"difference": -0.001, "low": -0.2, "high": 0.001}) == "0 (-20 to 0)"
    assert part(0.3, 10) == "30 %"


@pytest.mark.parametrize("n", range(1, 10))
def test_fewer_are_counted(n):
    few = {"accuracy": (n - 1) / n, "low": 0.0, "high": 1.0, "n": n}
    assert percent(few) == narrow(few) == part(few["accuracy"], n) == f"{n - 1} of {n}"
    assert right(few) == f"{n - 1} of {n} right"
    assert difference(PAIR | {"n": n, "wins": 1, "losses": 0}) == f"1 win, 0 losses of {n}"
    assert narrow(None) == ""
