"""Test models that share components: they load, verify and count like models with all components."""

import json
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

import diffusers_ext as dx
from diffusers_ext.models.fingerprint import marks
from diffusers_ext.training.export import share
from diffusers_ext.zoo import cards, catalogue
from diffusers_ext.zoo.models import refine

FILE = "diffusion_pytorch_model.safetensors"
CALL = {**catalogue.MODELS["shapes-sd3"].call, "num_inference_steps": 2, "output_type": "pt"}


def folder_of(out, transformer):
    """Save shapes-sd3 with another transformer and all its components, with a card."""
    shutil.copytree(catalogue.path("shapes-sd3"), out)
    shutil.rmtree(out / "results")
    transformer.half().save_pretrained(out / "transformer")
    sums = cards.checksums(cards.weight_files(out), out)
    (out / cards.CARD).write_text(json.dumps({"call": dict(CALL), "sha256": sums}))
    return out


@pytest.fixture(scope="module")
def fine():
    return refine(dx.load("shapes-sd3").transformer)


@pytest.fixture
def complete(tmp_path, fine):
    return folder_of(tmp_path / "complete", fine)


@pytest.fixture
def shared(tmp_path, complete):
    folder = shutil.copytree(complete, tmp_path / "shared")
    parts = {part.name for part in folder.iterdir() if part.is_dir()}
    assert set(share(folder, "shapes-sd3")) == parts - {"transformer"}
    return folder


def test_a_folder_that_shares_draws_what_the_complete_one_draws(complete, shared):
    assert sorted(f.name for f in shared.iterdir() if f.is_dir()) == ["transformer"]
    pictures = []
    for folder in (complete, shared):
        pipe = dx.load(folder)
        pipe.set_progress_bar_config(disable=True)
        pictures.append(pipe("a red circle", generator=torch.Generator().manual_seed(0), **CALL).images)
    assert torch.equal(*pictures)
    assert marks(shared) == marks(complete)


def test_components_of_the_caller_go_first(shared):
    mine = dx.load("shapes-sd3").vae
    pipe = dx.load(shared, vae=mine, torch_dtype=torch.float16)
    assert pipe.vae is mine and pipe.text_encoder.dtype == pipe.transformer.dtype == torch.float16


def test_the_stock_class_takes_the_component_that_is_its_own(shared):
    own = SD3Transformer2DModel.from_pretrained(shared / "transformer")
    pipe = StableDiffusion3Pipeline.from_pretrained(catalogue.path("shapes-sd3"), transformer=own)
    assert pipe.transformer.config.patch_size == 1


def test_borrowed_weights_are_checked_against_the_card(shared):
    cards.verify_weights(shared)
    facts = json.loads((shared / cards.CARD).read_text())
    facts["sha256"][f"vae/{FILE}"] = "0" * 64
    (shared / cards.CARD).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=f"sha256 of .*vae/{FILE} must match"):
        dx.load(shared)


def test_nothing_in_common_is_nothing_to_share(tmp_path):
    folder = shutil.copytree(catalogue.path("shapes-wan"), tmp_path / "wan")
    for part in ("tokenizer", "scheduler"):
        shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match="a component of shapes-sd3, none is; keep the folder whole"):
        share(folder, "shapes-sd3")
    assert (folder / "vae").is_dir() and "shares" not in cards.card(folder)


def test_a_lender_that_the_zoo_does_not_have_lends_nothing(tmp_path):
    (tmp_path / cards.CARD).write_text(json.dumps({"shares": "shapes-dog"}))
    (tmp_path / cards.INDEX).write_text("{}")
    assert cards.borrowed(tmp_path) == {}


def test_the_fine_model_begins_where_the_coarse_one_stands():
    """If latents are equal within each patch, a block of either model sees the same for the same text."""
    coarse = dx.load("shapes-sd3").transformer
    fine = refine(coarse)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    spread = latents.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        bare = [
            m.pos_embed.proj(spread).flatten(2).transpose(1, 2).unflatten(1, (n, n))
            for m, n in ((coarse, 8), (fine, 16))
        ]
        torch.testing.assert_close(bare[1][:, ::2, ::2], bare[0], atol=1e-5, rtol=1e-5)
        table = fine.pos_embed.pos_embed.unflatten(1, (16, 16))
        inner = table[:, 1:-1, 1:-1].unflatten(1, (7, 2)).unflatten(3, (7, 2)).mean((2, 4))
        wide = coarse.pos_embed.pos_embed.unflatten(1, (8, 8))
        between = (wide[:, 1:, 1:] + wide[:, :-1, :-1] + wide[:, 1:, :-1] + wide[:, :-1, 1:]) / 4
        torch.testing.assert_close(inner, between, atol=1e-5, rtol=1e-5)
        states = torch.randn(1, 3, 128)
        rows = coarse.proj_out(states).unflatten(-1, (2, 2, 4)).mean((2, 3))
        torch.testing.assert_close(fine.proj_out(states), rows, atol=1e-5, rtol=1e-5)
