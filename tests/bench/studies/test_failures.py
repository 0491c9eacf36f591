import pytest
from PIL import Image

from bench.studies.failures import failures, main
from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.score import Judged
from diffusers_ext.evaluate.store import Store
from diffusers_ext.sampling.items import Item


@pytest.fixture
def folder(tmp_path):
    """Write one right picture, one wrong one, and a wrong one of a method."""
    store, pictures = Store(tmp_path, {"weights": "w"}), Pictures(tmp_path)
    for variant, seed, correct in (("[]", 1, True), ("[]", 2, False), ("[method]", 2, False)):
        prompt = "a red circle"
        store.add(variant, [Judged(prompt, seed, "single_object", correct, "missing a red circle")])
        pictures.add(variant, Item(prompt, seed), Image.new("RGB", (64, 64), (90, 90, 90)))
    return tmp_path


def test_failures_of_the_plain_model_are_drawn(folder, capsys):
    ((verdict, path),) = failures(folder)["single_object"]
    assert verdict["seed"] == 2 and path.is_file()
    main([str(folder), "--out", str(folder / "page" / "failures.png")])
    assert "1 single_object" in capsys.readouterr().out
    assert Image.open(folder / "page" / "failures.png").width > 1000


def test_a_folder_without_an_evaluation_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no items.jsonl; run 'diffusers-ext eval" in capsys.readouterr().err
