"""The sheet of a story: every picture at its place."""

import numpy as np
from PIL import Image

from diffusers_ext.evaluate.report.story_sheet import GAP, NAME, SIDE, story_sheet


def test_each_picture_has_its_place():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    red, green, blue = (Image.new("RGB", (64, 32), c) for c in colours)
    page = np.asarray(
        story_sheet([("subjects", [(red, "ann: a red circle")]), ("story", [(green, ""), (blue, "")])])
    )
    height = SIDE // 2
    assert page.shape[1] == NAME + 2 * (SIDE + GAP) + GAP
    for row, column, colour in ((0, 0, colours[0]), (1, 0, colours[1]), (1, 1, colours[2])):
        left = NAME + column * (SIDE + GAP)
        rows = np.flatnonzero((page[:, left : left + SIDE] == colour).all((1, 2)))
        assert len(rows) == height and rows[-1] - rows[0] == height - 1
        assert (rows[0] == GAP) == (row == 0)
