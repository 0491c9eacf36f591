"""Test the wide grid: a row for each variant, a column for each prompt."""

from dataclasses import replace

import numpy as np
from PIL import Image

from diffusers_ext.evaluate.cells import Cell
from diffusers_ext.evaluate.compare import Comparison
from diffusers_ext.evaluate.report.grid import BAD, GOOD
from diffusers_ext.evaluate.report.wide_grid import FRAME, LABEL, MARGIN, PITCH, SIDE, wide_grid
from tests.evaluate.pictures import comparison
from tests.evaluate.report.test_grid import has_colour


def test_each_picture_is_in_its_row_and_column_with_its_verdict():
    made = comparison()
    image = wide_grid(made)
    assert image.width == LABEL + 3 * PITCH + MARGIN
    found = np.asarray(image)
    # The first pictures of the two rows differ, so they show where the rows are.
    tops = [at(found[:, LABEL : LABEL + PITCH], row[0])[0] for row in made.cells]
    assert tops[0] < tops[1]
    for c in range(3):
        column = found[:, LABEL + c * PITCH : LABEL + (c + 1) * PITCH]
        for top, row in zip(tops, made.cells, strict=True):
            assert top in at(column, row[c])
            around = column[top - 5 : top + SIDE + 30]
            assert has_colour(around, GOOD) == (row[c].judged.correct is True)
            assert has_colour(around, BAD) == (row[c].judged.correct is False)


def at(column, cell):
    """Return the rows of pixels where the picture of a cell begins."""
    picture = np.asarray(cell.image.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    inner = column[:, FRAME : FRAME + SIDE]
    return [y for y in range(len(inner) - SIDE) if np.array_equal(inner[y : y + SIDE], picture)]


def test_costs_and_lost_pictures():
    made = comparison()
    paid = tuple(tuple(replace(c, judged=replace(c.judged, cost=30.0)) for c in row) for row in made.cells)
    known = Comparison(made.variants, made.items, paid, made.reports)
    assert known.costs() == {"plain": 30.0, "<b>other</b>": 30.0} and made.costs() == {}
    label = slice(0, LABEL - 10)
    dark = [(np.asarray(wide_grid(m))[:, label] < 128).sum() for m in (made, known)]
    assert dark[1] > 1.1 * dark[0], "the cost is written under the name"
    lost = (*made.cells[:1], (Cell("<b>other</b>", None, made.cells[1][0].judged), *made.cells[1][1:]))
    assert wide_grid(Comparison(made.variants, made.items, lost, made.reports)).size == wide_grid(made).size
