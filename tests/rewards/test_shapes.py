import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

import diffusers_ext as dx
from diffusers_ext.rewards.clip import preprocess
from diffusers_ext.rewards.shapes import ShapesCLIP
from diffusers_ext.training.export import save_half
from diffusers_ext.zoo import cards
from diffusers_ext.zoo.models import build_processor, build_reward
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

PROMPTS = ["a red circle and a blue square", "two green stars"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save an untrained reward the way the shipped one is saved."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reward")
    save_half(build_reward(), folder)
    build_processor().save_pretrained(folder)
    (folder / cards.CARD).write_text(
        json.dumps({"sha256": cards.checksums(cards.weight_files(folder), folder)})
    )
    return folder


@pytest.fixture(scope="module")
def reward(folder):
    return ShapesCLIP(folder)


def pictures():
    images = np.stack([draw(parse(p), 0) for p in PROMPTS])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_the_folder_is_verified_and_small(folder):
    cards.verify_weights(folder)
    assert [f.name for f in cards.weight_files(folder)] == ["model.safetensors"]
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 4 * 2**20


def test_scores_are_those_of_the_stock_model_and_processor(folder, reward):
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    arrays = [Image.fromarray(draw(parse(p), 0)) for p in PROMPTS]
    pixels = reward.processor.image_processor(arrays, return_tensors="pt").pixel_values
    ids = tokenizer(PROMPTS, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        stock = model(input_ids=ids, pixel_values=pixels)
        ours = reward.score(pictures(), PROMPTS)
    cosines = stock.logits_per_image.diagonal() / model.logit_scale.exp()
    assert ours.shape == (2,)
    torch.testing.assert_close(ours, cosines, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (128, 128), (48, 48), (96, 160), (67, 64), (65, 200)]
)
def test_preprocessing_equals_the_saved_processor(reward, height, width):
    """They agree exactly at the model's own size; on resizing, PIL rounds to 8 bits after both passes."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(60, 196, (12, 12, 3), np.uint8))  # PIL also clips after each pass
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    asked = reward.processor.image_processor(image, return_tensors="pt").pixel_values
    ours = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    found = preprocess(ours, reward.processor.image_processor)
    step = 2 / 255  # of pixels in -1..1
    torch.testing.assert_close(found, asked, atol=1e-6 if min(height, width) == 64 else 1.51 * step, rtol=0)


def test_the_score_has_a_gradient_for_every_picture_and_none_for_weights(reward):
    images = pictures().requires_grad_()
    reward.score(images, PROMPTS).sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad.flatten(1).norm(dim=1) > 1e-6).all()
    assert all(p.grad is None for p in reward.model.parameters())


def test_pictures_are_scored_one_by_one(reward):
    with torch.no_grad():
        both = reward.score(pictures(), PROMPTS)
        alone = torch.cat([reward.score(pictures()[i : i + 1], PROMPTS[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (torch.zeros(3, 64, 64), PROMPTS, r"float images \[B, 3, H, W\]"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), PROMPTS, r"got torch.uint8"),
        (torch.zeros(2, 3, 64, 64), PROMPTS[:1], r"got 1 prompts for 2 images"),
        (torch.zeros(2, 3, 64, 64), "ab", r"got one string for 2 images"),
    ],
)
def test_wrong_use_is_refused(reward, images, prompts, message):
    with pytest.raises(ValueError, match=message):
        reward.score(images, prompts)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs a config.json .* train shapes-clip"):
        ShapesCLIP(tmp_path)


def test_names(monkeypatch):
    assert dx.rewards.ShapesCLIP is ShapesCLIP
    with pytest.raises(ValueError, match=r"'shapes-clip' is a reward.*rewards.ShapesCLIP\(\)"):
        dx.load("shapes-clip")


def _half(file):
    file.write_bytes(file.read_bytes()[:5000])


def _tensors(change):
    def damage(file):
        tensors = load_file(file)
        change(tensors, next(name for name in tensors if tensors[name].ndim == 2))
        save_file(tensors, file, metadata={"format": "pt"})

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_half, "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (_tensors(lambda tensors, name: tensors.pop(name)), "lack 1 tensors, first "),
        (
            _tensors(lambda tensors, name: tensors.update({name: tensors[name][:1].clone()})),
            "have other shapes",
        ),
    ],
    ids=["cut off", "empty", "a tensor less", "another shape"],
)
def test_damaged_weights_are_refused_and_never_made_at_random(folder, tmp_path, damage, said):
    copy = shutil.copytree(folder, tmp_path / "damaged")
    damage(copy / "model.safetensors")
    with pytest.raises(
        ValueError, match=f"weights of the reward in '{copy}' {said}.*; fetch or copy it again"
    ):
        ShapesCLIP(copy).score(torch.rand(1, 3, 64, 64), ["a red circle"])
