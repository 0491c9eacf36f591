"""Rewards of CLIP models, against transformers' own forward and processor."""

from functools import partial

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

import diffusers_ext as dx
from diffusers_ext.rewards import CLIPScore, PickScore
from diffusers_ext.rewards.clip import LAION, CLIPReward
from tests.close import alike, close

from .models import PROMPTS, clip_folder, pictures, slope_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"))


def stock(folder, images, prompts):
    """Logits [B, B] of the stock model on pixels of the stock processor."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPScore(folder).processor
    arrays = [Image.fromarray((i * 255).round().byte().permute(1, 2, 0).numpy()) for i in images]
    asked = processor(text=prompts, images=arrays, return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(**asked).logits_per_image


@pytest.mark.parametrize("kind", [CLIPScore, PickScore])
def test_scores_are_the_diagonal_of_the_stock_logits(folder, kind):
    wanted = stock(folder, pictures(), PROMPTS)
    found = kind(folder).score(pictures(), PROMPTS)
    alike(found, wanted.diagonal())
    assert (wanted - wanted.diagonal()[:, None]).abs().max() > 0.1  # other pairs have other scores


def test_pictures_and_prompts_stay_together(folder):
    reward, turned = CLIPScore(folder), [2, 0, 1]
    straight = reward.score(pictures(), PROMPTS)
    alike(reward.score(pictures()[turned], [PROMPTS[i] for i in turned]), straight[turned])
    assert (reward.score(pictures(), [PROMPTS[i] for i in turned]) - straight).abs().max() > 0.01


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_the_gradient_is_that_of_finite_differences(folder, size):
    """At a size of its own, and at one that is enlarged and cropped."""
    reward = CLIPScore(folder, dtype=torch.float64)
    images = 0.2 + 0.6 * torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))
    assert slope_error(lambda x: reward._score(x, PROMPTS), images) < 1e-6


def test_running_again_saves_memory_and_changes_nothing(folder):
    """What the backward pass keeps is counted; the picture half is the most of it."""
    kept, scores, gradients = {}, {}, {}
    for again in (False, True):
        reward = CLIPScore(folder, checkpoint=again)
        images, sizes = pictures().requires_grad_(), []
        keep = partial(lambda own, tensor: own.append(tensor.numel()) or tensor, sizes)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            score = reward.score(images, PROMPTS)
        (gradients[again],) = torch.autograd.grad(score.sum(), images)
        kept[again], scores[again] = sum(sizes), score
    close(scores[True], scores[False])
    close(gradients[True], gradients[False])
    assert kept[True] < kept[False] / 20


def test_nothing_is_loaded_before_the_first_score(tmp_path):
    reward = CLIPScore(tmp_path / "absent")
    assert "model" not in vars(reward)
    with pytest.raises(OSError, match="absent"):
        reward.score(pictures(), PROMPTS)


def test_the_weights_are_frozen(folder):
    reward = CLIPScore(folder, dtype=torch.float16)
    images = pictures().requires_grad_()
    score = reward.score(images, PROMPTS)
    score.sum().backward()
    assert score.dtype == torch.float32 and {p.dtype for p in reward.model.parameters()} == {torch.float16}
    assert not any(p.requires_grad for p in reward.model.parameters()) and not reward.model.training
    assert torch.isfinite(images.grad).all()
    close(score, CLIPScore(folder).score(pictures(), PROMPTS), dtype=torch.float16)


def test_names_and_places():
    assert (dx.rewards.CLIPScore, dx.rewards.PickScore) == (CLIPScore, PickScore)
    assert (CLIPScore().place, CLIPScore().processor_place) == (LAION, LAION)
    assert (PickScore().place, PickScore().processor_place) == ("yuvalkirstain/PickScore_v1", LAION)
    assert PickScore("mine").processor_place == "mine" and PickScore(processor="p").processor_place == "p"
    assert issubclass(dx.rewards.ShapesCLIP, CLIPReward)


@pytest.mark.parametrize(("kind", "low", "high"), [(CLIPScore, 15, 45), (PickScore, 15, 28)])
def test_published_weights_score_in_their_range(kind, low, high, online):
    images = torch.stack([torch.full((3, 224, 224), 0.5), torch.zeros(3, 224, 224)])
    images[1, 0] = 1
    scores = kind().score(images, ["a plain red picture"] * 2)
    assert low < scores.max() < high and scores[1] > scores[0]
