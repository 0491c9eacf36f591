import base64
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
from PIL import Image

from diffusers_ext.evaluate.report.comparison import html
from tests.evaluate.pictures import HOSTILE, comparison


class Page(HTMLParser):
    """Collect tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def page():
    made = comparison()
    return made, Page(html(made, made.to_dict() | {"call": {"steps": 3}}, "Title & more", ("a <note>",)))


def test_pictures_are_inside_and_unchanged():
    made, found = page()
    sources = [attrs["src"] for tag, attrs in found.tags if tag == "img"]
    images = [np.asarray(Image.open(BytesIO(base64.b64decode(s.split(",")[1])))) for s in sources]
    wanted = [np.asarray(row[r].image) for r in range(3) for row in made.cells]
    assert len(images) == 6
    assert all(np.array_equal(a, b) for a, b in zip(images, wanted, strict=True))


def test_nothing_is_fetched_and_nothing_is_run():
    _, found = page()
    assert not {"script", "link", "iframe", "b"} & {tag for tag, _ in found.tags}
    for _, attrs in found.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("src", "data:").startswith("data:") and "href" not in attrs


def test_words_of_the_user_come_through_as_text():
    _, found = page()
    for text in (HOSTILE, "<b>other</b>", "Title & more", "a <note>"):
        assert text in found.text
    assert HOSTILE in [attrs["alt"].rsplit(", ", 2)[0] for tag, attrs in found.tags if tag == "img"]


def test_figures_and_reasons_are_told():
    made, found = page()
    assert "right: found a red square" in found.text
    assert f"wrong: {made.cells[1][0].judged.reason}" in found.text
    assert "no ground truth: the prompt is not in the grammar" in found.text
    assert "2 of 2" in found.text and "1 of 2" in found.text and "%" not in found.text
    assert "minus plain: 0 wins, 1 loss of 2" in found.text and "McNemar" not in found.text


def test_ten_pictures_and_more_have_percentages():
    made = comparison()
    results = made.to_dict()
    for facts in (*results["methods"].values(), *results["paired"].values()):
        facts["overall"]["n"] = 10
    text = html(made, results, "ten")
    assert "100 % of 10<br>(34 to 100)" in text and "minus plain: -50 points (" in text
    assert "with 95 % intervals" in text and "McNemar" in text
