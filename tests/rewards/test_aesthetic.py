"""The aesthetic predictor, against its layers written out."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel

import diffusers_ext as dx
from diffusers_ext.rewards import Aesthetic, CLIPScore
from diffusers_ext.rewards.aesthetic import FILE, layers
from tests.close import alike

from .models import PROMPTS, clip_folder, pictures, slope_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def published():
    """The module of the published file, with dropout between its layers, for features [B, 128]."""
    torch.manual_seed(1)
    head = nn.Module()
    head.layers = nn.Sequential(
        nn.Linear(128, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64),
        nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
    )  # fmt: skip
    return head.eval()


@pytest.fixture
def head(published, tmp_path):
    torch.save(published.state_dict(), tmp_path / FILE)
    return tmp_path / FILE


@torch.no_grad()
def test_the_score_is_that_of_the_published_layers(folder, published, head):
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPScore(folder).pixels(pictures())
    seen = model.get_image_features(pixels).pooler_output
    wanted = published.layers(seen / seen.norm(dim=-1, keepdim=True))[:, 0]
    reward = Aesthetic(folder, head=head)
    alike(reward.score(pictures(), PROMPTS), wanted)
    alike(reward.score(pictures(), ["x"] * 3), wanted)
    assert wanted.std() > 1e-4


def test_heads_are_read_as_folders_and_as_safetensors(folder, published, head, tmp_path):
    wanted = Aesthetic(folder, head=head).score(pictures(), PROMPTS)
    file = tmp_path / "head.safetensors"
    save_file({f"mlp.{key}": value for key, value in published.state_dict().items()}, file)
    for place in (head.parent, file, str(file)):
        alike(
            Aesthetic(folder, head=place).score(pictures(), PROMPTS), wanted
        )  # mapped files align otherwise


def test_the_gradient_is_that_of_finite_differences(folder, head):
    reward = Aesthetic(folder, head=head, dtype=torch.float64)
    assert slope_error(lambda x: reward._score(x, PROMPTS), pictures()) < 1e-6


def test_pickles_are_refused(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code of the file ran",))

    torch.save({"weights": Trap()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "c.pth").write_bytes(b"text")
    for name in "abc":
        with pytest.raises(ValueError, match=r"\.pth' is neither; .*safetensors.torch.save_file"):
            Aesthetic(folder, head=tmp_path / f"{name}.pth").score(pictures(), PROMPTS)


def test_places_without_a_head_are_refused(folder, tmp_path):
    for place, message in ((tmp_path, f"has no {FILE}"), (tmp_path / "no.pth", "check the path")):
        with pytest.raises(FileNotFoundError, match=message):
            Aesthetic(folder, head=place).score(pictures(), PROMPTS)


def test_layers_that_do_not_fit_are_refused(folder, published, tmp_path):
    tensors = dict(published.state_dict())
    for key in ("layers.4.weight", "layers.7.weight"):
        with pytest.raises(ValueError, match="linear layers that follow each other down to one number"):
            layers({k: v for k, v in tensors.items() if k != key})
    save_file({"0.weight": torch.ones(1, 768), "0.bias": torch.zeros(1)}, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="reads the 128 features of its CLIP model, and this one reads 768"):
        Aesthetic(folder, head=tmp_path / "wide.safetensors").score(pictures(), PROMPTS)
    save_file({}, tmp_path / "empty.safetensors")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        Aesthetic(folder, head=tmp_path / "empty.pth").score(pictures(), PROMPTS)


def test_names():
    assert dx.rewards.Aesthetic is Aesthetic and Aesthetic().place == "openai/clip-vit-large-patch14"


def test_published_weights_score_in_their_range(online):
    scores = Aesthetic().score(torch.rand(1, 3, 224, 224), ["noise"])
    assert 1 < scores.item() < 7
