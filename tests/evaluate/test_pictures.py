import numpy as np
import pytest
from PIL import Image

from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.runner import answer, column, key
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.sampling.items import Item
from diffusers_ext.sampling.progress import Progress
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

ITEM = Item("a red square", 3)
CALL = {"num_inference_steps": 1, "max_sequence_length": 16}
PLAIN = Variant("plain")


def test_pictures_come_back_and_variants_are_kept_apart(tmp_path):
    kept, image = Pictures(tmp_path), Image.fromarray(draw(parse(ITEM.prompt), ITEM.seed))
    kept.add("[]", ITEM, image)
    assert np.array_equal(np.asarray(Image.open(kept.path("[]", ITEM))), np.asarray(image))
    assert kept.has("[]", ITEM)
    assert not kept.has("other", ITEM) and not kept.has("[]", Item(ITEM.prompt, 4))


def test_a_failed_write_leaves_nothing(tmp_path):
    kept = Pictures(tmp_path)
    with pytest.raises(OSError):
        kept.add("[]", ITEM, Image.new("CMYK", (8, 8)))  # a mode that PNG does not have
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_picture_that_was_lost_is_made_again(pipe, tmp_path, capsys):
    asked, kept, store = questions("tuning", 1), Pictures(tmp_path), Store(tmp_path, {})
    first = answer(pipe, PLAIN, asked, CALL, store, batch=6, pictures=kept)
    lost = kept.path(key(PLAIN), asked[2].item)
    before = np.asarray(Image.open(lost)).astype(int)
    lost.unlink()
    with Progress(6) as progress:
        again = answer(pipe, PLAIN, asked, CALL, Store(tmp_path, {}), pictures=kept, progress=progress)
    assert "5 of 6 images were finished before" in capsys.readouterr().out
    assert progress.finished == 6 and len(again) == len(first)
    # alone in its batch, pixels may differ by a rounding step
    assert np.abs(np.asarray(Image.open(lost)).astype(int) - before).max() <= 1


def test_the_gallery_reads_the_pictures_of_its_variant(pipe, tmp_path):
    asked, kept = questions("tuning", 1), Pictures(tmp_path)
    judged = answer(pipe, PLAIN, asked, CALL, Store(tmp_path, {}), pictures=kept)
    shown = column(PLAIN, judged, kept)
    assert shown.label == "plain"
    assert shown.png(judged[1]) == kept.path("[]", asked[1].item).read_bytes()
