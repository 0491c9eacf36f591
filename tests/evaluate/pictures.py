"""Make a finished comparison of rendered pictures: right, wrong and without ground truth."""

from PIL import Image

from diffusers_ext.evaluate.cells import Cell, Variant
from diffusers_ext.evaluate.compare import Comparison
from diffusers_ext.evaluate.score import judge
from diffusers_ext.sampling.items import Item
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

HOSTILE = '<script>alert("x")</script> & a prompt that is far longer than any label ' + "w" * 80


def comparison() -> Comparison:
    """Compare two variants on three prompts; the second draws the wrong thing for the first prompt."""
    items = (Item("a red square", 0), Item("two blue stars", 1), Item(HOSTILE, 2))
    shown = {"plain": items[0].prompt, "<b>other</b>": "a purple cross"}
    cells = []
    for label, first in shown.items():
        row = []
        for item, drawn in zip(items, (first, "two blue stars", "a green circle"), strict=True):
            image = Image.fromarray(draw(parse(drawn), item.seed))
            row.append(Cell(label, image, judge(image, item.prompt, item.seed, 0.5)))
        cells.append(tuple(row))
    return Comparison(tuple(Variant(label) for label in shown), items, tuple(cells), (None, None))
