import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from diffusers_ext.evaluate.cells import Cell, Variant
from diffusers_ext.evaluate.compare import Comparison
from diffusers_ext.evaluate.report.grid import BAD, GAP, GOOD, LABEL, SIDE, grid, wrap
from diffusers_ext.evaluate.score import judge
from diffusers_ext.sampling.items import Item
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw
from tests.evaluate.pictures import comparison


def has_colour(area, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.asarray(area) == wanted).all(-1).any())


def test_pictures_stand_in_their_column_with_their_verdict():
    made = comparison()
    image = grid(made)
    assert image.width == LABEL + GAP + 2 * (SIDE + GAP)
    found = np.asarray(image)
    for c in range(2):
        x = LABEL + GAP + c * (SIDE + GAP)
        column = found[:, x : x + SIDE]
        for cell in made.cells[c]:
            picture = np.asarray(cell.image.resize((SIDE, SIDE), Image.Resampling.NEAREST))
            rows = [y for y in range(len(column) - SIDE) if np.array_equal(column[y : y + SIDE], picture)]
            assert len(rows) == 1, "each picture is drawn once, in its own column"
            judged = cell.judged
            under = column[rows[0] + SIDE : rows[0] + SIDE + 20]
            assert has_colour(under, GOOD) == (judged.correct is True)
            assert has_colour(under, BAD) == (judged.correct is False)


def test_a_row_is_as_high_as_its_longest_verdict():
    asked = "a red square, a green star and a blue circle"
    heights = {}
    for shown in (asked, "a pink triangle, a yellow square and a purple circle"):
        item, image = Item(asked, 0), Image.fromarray(draw(parse(shown), 0))
        cell = Cell("plain", image, judge(image, asked, 0, 0.5))
        made = grid(Comparison((Variant("plain"),), (item,), ((cell,),), (None,)))
        heights[cell.judged.correct] = made.height
        ink = np.asarray(made)[:, LABEL + GAP :].min((1, 2))
        assert 4 <= np.flatnonzero(ink[::-1] < 250)[0] <= 2 * GAP, "words end just above the edge"
    assert heights[False] > heights[True] + 20


@pytest.mark.parametrize("text", ["", "short", "a red square and a blue circle left of it " * 5, "w" * 300])
@pytest.mark.parametrize("most", [1, 3])
def test_wrapped_text_fits(text, most):
    font = ImageFont.load_default(14)
    ruler = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    lines = wrap(ruler, text, font, 150, most)
    assert 1 <= len(lines) <= most
    assert all(ruler.textlength(line, font) <= 150 for line in lines)
    kept = "".join(lines).replace(" ", "")
    assert text.replace(" ", "").startswith(kept.removesuffix("..."))
