"""Test the sheet of candidates: one picture each or a row each, the best first, legible sizes."""

import numpy as np
import pytest

from diffusers_ext.evaluate.candidates import Fate
from diffusers_ext.evaluate.report.candidates import ROWS, SIDE, sheet


def solid(value, side=64):
    """Return a picture of one colour, which no text has."""
    return np.broadcast_to(np.array(colour(value), np.uint8), (side, side, 3))


def colour(value):
    return (220, 10, value)


def marked(canvas, value):
    return (np.asarray(canvas) == colour(value)).all(-1)


def corner(canvas, value):
    """Return the top left corner of the first picture of one colour."""
    found = np.argwhere(marked(canvas, value))
    return tuple(int(v) for v in found[0][::-1]), len(found)


def tiles(count, side=64, **more):
    return [
        Fate((f"candidate {i}",), {0: solid(50 + i, side)}, {}, float(i), best=i == count - 1, **more)
        for i in range(count)
    ]


def test_one_picture_each_follows_by_score():
    canvas = sheet(tiles(6), ["a prompt", "a sampler"])
    places = [corner(canvas, 50 + i) for i in range(6)]
    assert all(area == SIDE * SIDE for _, area in places), "pictures are doubled and not covered"
    order = sorted(range(6), key=lambda i: (places[i][0][1], places[i][0][0]))
    assert order == [5, 4, 3, 2, 1, 0]


def test_iterations_keep_their_order():
    canvas = sheet(tiles(6, ordered=True), ["a prompt"])
    places = [corner(canvas, 50 + i)[0] for i in range(6)]
    assert [*places] == sorted(places, key=lambda p: (p[1], p[0]))


def test_rows_show_every_step_and_where_candidates_were_dropped():
    kept = Fate(("candidate 0",), {2: solid(60), 5: solid(61)}, {2: 0.5}, 0.9, best=True, verdict=True)
    gone = Fate(("candidate 1",), {2: solid(70)}, {2: 0.1}, dropped=2)
    canvas = sheet([gone, kept], ["a prompt"])
    first, second, lost = (corner(canvas, value)[0] for value in (60, 61, 70))
    assert first[1] == second[1] < lost[1] and first[0] == lost[0] < second[0]
    cell = np.asarray(canvas)[lost[1] : lost[1] + SIDE, second[0] : second[0] + SIDE]
    assert cell.min() < 200, "the place of the finished picture says that it was dropped"
    assert (np.asarray(canvas)[second[1] - 2, second[0] + 5] == (27, 127, 59)).all(), (
        "right has a green frame"
    )


@pytest.mark.parametrize("side", [32, 200])
def test_pictures_of_any_size_are_about_as_large(side):
    canvas = sheet(tiles(2, side), ["a prompt"])
    assert all(corner(canvas, 50 + i)[1] == SIDE * SIDE for i in range(2))


def test_many_are_cut_with_a_word_about_the_rest():
    few, many = sheet(tiles(ROWS), ["a"]), sheet(tiles(ROWS + 40), ["a"])
    assert 0 < many.height - few.height < 60
    assert marked(many, 50).sum() == 0, "the worst is left out"
    run = sheet(tiles(ROWS + 40, ordered=True), ["a"])
    assert marked(run, 50).sum() == SIDE * SIDE, "the first iteration is shown"


def test_a_search_without_pictures_has_a_sheet_of_words():
    canvas = sheet([Fate(("candidate 0",), score=1.0, best=True)], ["w" * 300])
    assert canvas.width < 2000 and np.asarray(canvas).min() < 100
