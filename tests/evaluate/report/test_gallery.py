import base64
from io import BytesIO

from PIL import Image

from diffusers_ext.evaluate.cells import Column
from diffusers_ext.evaluate.report.gallery import MOST, gallery
from diffusers_ext.evaluate.score import judge
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw
from tests.evaluate.report.test_comparison import Page

ASKED = (
    ("a red square", "single_object"),
    ("two blue stars", "counting"),
    ("a red circle and a cyan star", "color_attr"),
)


def variant(label, *drawn):
    """Make a column whose pictures show `drawn`, although ASKED was wanted."""
    images = [Image.fromarray(draw(parse(d), i)) for i, d in enumerate(drawn)]
    judged = [judge(img, p, i, 0.1, t) for i, (img, (p, t)) in enumerate(zip(images, ASKED, strict=True))]

    def png(j):
        buffer = BytesIO()
        images[j.seed].save(buffer, format="PNG")
        return buffer.getvalue()

    return Column(label, judged, png)


RIGHT = [prompt for prompt, _ in ASKED]
PLAIN = variant("plain", "a red circle", *RIGHT[1:])
OTHER = variant("<i>other</i>", "a red square", "two blue stars", "a cyan circle and a red star")


def test_wins_and_losses_show_both_variants():
    found = Page(gallery("title", OTHER, PLAIN, ["a <note>"]))
    wins, losses = found.text.split("Losses: <i>other</i> is wrong where plain is right")
    assert "single object: 1 of 1" in wins and "a red square" in wins
    assert "color attr: 1 of 1, 1 with the colours swapped" in losses
    assert "None in counting, color attr." in wins and "None in single object, counting." in losses
    assert "two blue stars" not in found.text, "pictures that both get right teach nothing"
    labels = [a["alt"].rsplit(", ", 2)[1] for tag, a in found.tags if tag == "img"]
    assert labels == ["plain", "<i>other</i>"] * 2
    assert "a <note>" in found.text


def test_failures_of_a_single_variant():
    found = Page(gallery("title", PLAIN))
    (image,) = [attrs for tag, attrs in found.tags if tag == "img"]
    assert image["src"] == "data:image/png;base64," + base64.b64encode(PLAIN.png(PLAIN.judged[0])).decode()
    assert "single object: 1 of 1" in found.text and "None in counting, color attr." in found.text


def test_nothing_is_fetched_and_nothing_is_run():
    found = Page(gallery("title", OTHER, PLAIN))
    assert not {"script", "link", "iframe", "i"} & {tag for tag, _ in found.tags}
    assert all(attrs["src"].startswith("data:") for tag, attrs in found.tags if tag == "img")


def test_a_long_list_is_cut_and_its_length_told():
    many = Column("plain", [PLAIN.judged[0]] * (MOST + 5), PLAIN.png)
    found = Page(gallery("title", many))
    assert sum(tag == "img" for tag, _ in found.tags) == MOST
    assert f"single object: {MOST + 5} of {MOST + 5}" in found.text
