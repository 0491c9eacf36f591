import re

import pytest
import torch
from safetensors.torch import save_file

from diffusers_ext.training import provenance
from diffusers_ext.zoo import cards, catalogue

START = {"name": "shapes-sd", "sha256": {"unet/model.safetensors": "01"}}
BEGUN = {"seed": 0, "autoencoder": "ab", "start": None}


@pytest.mark.parametrize(
    "key, value", [("seed", 1), ("autoencoder", "cd"), ("start", START), ("teacher", "x")]
)
def test_another_run_is_refused(tmp_path, key, value):
    came = {"seed": "0", "autoencoder": "ab"}.get(key, "none")
    rule = f"the run in {tmp_path} was begun with another {key}, {came}; choose another --out, or begin anew"
    with pytest.raises(ValueError, match=re.escape(rule)):
        provenance.resumed(tmp_path, BEGUN | {key: value}, {"identity": BEGUN})


def test_a_start_need_not_be_named_again(tmp_path):
    begun = BEGUN | {"start": START}
    assert provenance.resumed(tmp_path, BEGUN, {"identity": begun}) == begun


def test_an_old_checkpoint_tells_its_seed_alone_and_goes_on_again_and_again(tmp_path):
    begun = provenance.resumed(tmp_path, BEGUN, {"seed": 0})
    assert begun == BEGUN == provenance.resumed(tmp_path, BEGUN, {"identity": begun})
    with pytest.raises(ValueError, match="another seed, 3"):
        provenance.resumed(tmp_path, BEGUN, {"seed": 3})


def test_what_only_the_checkpoint_knows_counts(tmp_path):
    with pytest.raises(ValueError, match="another teacher, ef"):
        provenance.resumed(tmp_path, BEGUN, {"identity": BEGUN | {"teacher": "ef"}})


def test_a_start_may_be_renamed(tmp_path):
    begun, renamed = BEGUN | {"start": START}, BEGUN | {"start": START | {"name": "copy"}}
    assert provenance.resumed(tmp_path, renamed, {"identity": begun}) == begun


def test_of_a_start_only_what_is_taken_counts():
    home = catalogue.path("shapes-sd")
    sums = cards.checksums(cards.weight_files(home), home)
    file = "unet/diffusion_pytorch_model.safetensors"
    assert provenance.of_start(home, ("unet",)) == {"name": "shapes-sd", "sha256": {file: sums[file]}}
    assert provenance.of_start(home)["sha256"] == sums
    assert provenance.of_start(None, ("unet",)) is None


@pytest.mark.parametrize("name", ["shapes-sd", "shapes-wan"])
def test_shipped_models_can_be_trained_again_from_the_text_they_began_with(name):
    text = cards.card(catalogue.path(name))["text_encoder"]
    assert text["sha256"] == provenance.of_text(text["start"])


def test_of_text_only_the_text_half_counts(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    monkeypatch.setattr(provenance, "path", lambda _: tmp_path)
    sums = []
    for text, picture in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0)):
        save_file({"text_model.a": torch.full((2,), text), "vision_model.a": torch.full((2,), picture)}, file)
        sums.append(provenance.of_text("shapes-clip"))
    assert sums[0] == sums[1] != sums[2]
