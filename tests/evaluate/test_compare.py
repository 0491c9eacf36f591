import pytest

from diffusers_ext import SoftPAG
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.compare import lines, run
from diffusers_ext.evaluate.words import difference
from diffusers_ext.sampling.items import Item
from diffusers_ext.sampling.progress import Progress

CALL = {"num_inference_steps": 1, "max_sequence_length": 16}
ITEMS = [Item("a red square", 0), Item("two blue stars", 1), Item("a cat", 2)]


def test_every_variant_gets_every_item(pipe):
    variants = [Variant("plain"), Variant("softpag", (SoftPAG(scale=5.0),))]
    with Progress(6) as progress:
        comparison = run(pipe, variants, ITEMS, CALL, batch=2, progress=progress)
    assert progress.finished == 6 and not progress.failures
    for row in comparison.cells:
        assert [(c.judged.prompt, c.judged.seed) for c in row] == [(i.prompt, i.seed) for i in ITEMS]
    plain, guided = ([c.image.tobytes() for c in row] for row in comparison.cells)
    assert all(a != b for a, b in zip(plain, guided, strict=True))
    assert comparison.reports[0] is None and comparison.reports[1]["extra_passes"] == 2
    found = comparison.to_dict()
    assert found["methods"]["plain"]["overall"]["n"] == 2, "the cat has no ground truth"
    assert found["methods"]["softpag"]["methods"][0]["scale"] == 5.0
    assert found["paired"]["softpag"]["against"] == "plain"


@pytest.mark.parametrize(
    "variants, items", [([Variant("a"), Variant("a")], ITEMS), ([], ITEMS), ([Variant("a")], [])]
)
def test_bad_input(pipe, variants, items):
    with pytest.raises(ValueError, match="one prompt or more and variants with different names"):
        run(pipe, variants, items, CALL)


def test_printed_lines():
    share = {"accuracy": 0.75, "low": 0.5312, "high": 0.8881, "n": 20}
    pair = {"difference": 0.1, "low": -0.05, "high": 0.25, "wins": 3, "losses": 1, "p": 0.625}
    facts = {"overall": share, "seconds_per_image": 0.1}
    results = {
        "methods": {"plain": facts, "softpag": facts | {"overall": None}},
        "paired": {"softpag": {"against": "plain", "overall": pair}},
    }
    assert lines(results) == [
        "plain    75 % (53 to 89) of 20 right, 0.10 s an image",
        "softpag  no ground truth, 0.10 s an image",
        f"softpag minus plain: {difference(pair)}",
    ]
