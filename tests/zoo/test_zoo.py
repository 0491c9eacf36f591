import json
import subprocess
import sys

import diffusers
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from diffusers_ext.training.export import save_half
from diffusers_ext.training.objectives.wan import clip_is_exact
from diffusers_ext.training.progress import picture_is_exact, score
from diffusers_ext.zoo import cards, catalogue
from diffusers_ext.zoo.models import build_sd3, build_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save an untrained model the way the shipped one is saved, with a card."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("zoo") / "shapes-sd3"
    save_half(build_sd3(build_vae()), folder)
    card = {"sha256": cards.checksums(cards.weight_files(folder), folder)}
    (folder / cards.CARD).write_text(json.dumps(card))
    return folder


def size_of(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_intact_weights_pass(folder):
    cards.verify_weights(folder)
    assert len(cards.weight_files(folder)) == 5  # transformer, VAE and three text encoders


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_3"])
def test_a_damaged_file_is_named(folder, part):
    file = next(folder.glob(f"{part}/*.safetensors"))
    complete = file.read_bytes()
    try:
        file.write_bytes(complete[:-1] + bytes([complete[-1] ^ 1]))
        with pytest.raises(ValueError, match=rf"sha256 of .*{part}/{file.name} must match"):
            cards.verify_weights(folder)
        file.unlink()
        with pytest.raises(ValueError, match=rf"{part}/{file.name} .* found nothing"):
            cards.verify_weights(folder)
    finally:
        file.write_bytes(complete)


def test_a_lora_beside_the_weights_is_no_business_of_the_card(folder):
    lora = folder / "pytorch_lora_weights.safetensors"
    lora.write_bytes(b"not ours")
    try:
        cards.verify_weights(folder)
    finally:
        lora.unlink()


def test_a_folder_without_card_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"card\.json"):
        cards.verify_weights(tmp_path)
    (tmp_path / cards.CARD).write_text("{}")
    with pytest.raises(FileNotFoundError, match="with checksums"):
        cards.verify_weights(tmp_path)


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="unknown zoo model 'shapes-sd4'; the zoo has shapes-sd3"):
        catalogue.path("shapes-sd4")


def test_a_bare_load_computes_in_float32_and_agrees_with_an_explicit_one(folder):
    call = {**catalogue.MODELS["shapes-sd3"].call, "num_inference_steps": 2, "output_type": "np"}
    images = []
    for kwargs in ({}, {"torch_dtype": torch.float32}):
        pipe = StableDiffusion3Pipeline.from_pretrained(folder, **kwargs)
        parts = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
        assert {p.dtype for m in parts for p in m.parameters()} == {torch.float32}
        pipe.set_progress_bar_config(disable=True)
        images.append(pipe("a red circle", generator=torch.Generator().manual_seed(0), **call).images[0])
    assert images[0].shape == (64, 64, 3)
    assert (images[0] == images[1]).all()


def test_ten_mebibytes_suffice(folder):
    assert size_of(folder) < 10 * 2**20


def test_importing_the_zoo_is_light():
    heavy = ("torch", "transformers", "diffusers", "scipy")
    imports = "import sys, diffusers_ext.zoo, diffusers_ext.training"
    code = f"{imports}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", [*catalogue.MODELS, *catalogue.REWARDS, *catalogue.NOISES])
def test_shipped_weights_are_those_of_the_card_and_small(name):
    folder = catalogue.path(name)
    cards.verify_weights(folder)
    assert cards.card(folder)["sha256"].keys() == cards.all_weights(folder).keys()
    assert size_of(folder) < 10 * 2**20


def test_the_zoo_is_smaller_than_forty_mebibytes():
    assert size_of(catalogue.WEIGHTS) < 40 * 2**20


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_a_shipped_model_draws_most_single_objects(name):
    """Objects are held out, drawn by the stock class with the arguments on its card.

    A model that shares components is loaded as a transformer for the folder that has the others.
    """
    model, home, own = catalogue.MODELS[name], catalogue.path(name), {}
    if lender := cards.card(home).get("shares"):
        own["transformer"] = diffusers.SD3Transformer2DModel.from_pretrained(home / "transformer")
        home = catalogue.path(lender)
    pipe = getattr(diffusers, model.pipeline).from_pretrained(home, **own)
    pipe.set_progress_bar_config(disable=True)
    exact = clip_is_exact if "num_frames" in model.call else picture_is_exact
    shares = score(pipe, name, 6, split="held-out", tasks=("single_object",), exact=exact)
    assert shares["single_object"] >= 4 / 6
