"""Rewards for noise levels: which weights are used, and how they are kept."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

import diffusers_ext as dx
from diffusers_ext.rewards import CLIPScore, NoiseAware, ShapesCLIP, ensemble
from diffusers_ext.rewards.noise_aware import FILE
from tests.close import alike

from .models import PROMPTS, clip_folder, pictures

LAST = "vision_model.encoder.layers.3."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(folder):
    return ShapesCLIP(folder)


def trained(folder, seed):
    """The model of `folder` after a training of its last block."""
    model = CLIPModel.from_pretrained(folder).eval()
    dice = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if name.startswith(LAST):
            value.data += 0.05 * torch.randn(value.shape, generator=dice)
    return model


@pytest.fixture
def models(folder):
    return {0.25: trained(folder, 1), 0.75: trained(folder, 2)}


@pytest.fixture
def reward(base, models):
    return NoiseAware(base, {level: model.state_dict() for level, model in models.items()})


def saved(model, folder, home):
    """The reward of a model that is saved completely, in fp16 as the levels are."""
    copied = copy.deepcopy(model)
    for name, value in copied.named_parameters():
        if name.startswith(LAST):
            value.data = value.data.half().float()
    copied.save_pretrained(home)
    ShapesCLIP(folder).processor.save_pretrained(home)
    return ShapesCLIP(home)


def test_a_level_scores_as_the_model_that_was_trained_for_it(reward, models, folder, tmp_path):
    scores = {}
    for level, model in models.items():
        scores[level] = reward.at(level).score(pictures(), PROMPTS)
        alike(scores[level], saved(model, folder, tmp_path / str(level)).score(pictures(), PROMPTS))
    assert (scores[0.25] - scores[0.75]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("level", "nearest"),
    [(0, 0), (0.1, 0), (0.125, 0), (0.13, 0.25), (0.25, 0.25), (0.5, 0.25), (0.51, 0.75), (1, 0.75)],
)
def test_the_nearest_level_counts_and_clean_pictures_have_the_base(reward, base, level, nearest):
    assert reward.at(level) is reward.at(nearest)
    assert (reward.at(level) is base) == (nearest == 0)


def test_clean_pictures_may_have_weights_of_their_own(base, models):
    reward = NoiseAware(base, {0.0: models[0.25].state_dict()})
    assert reward.at(0.9) is reward.at(0.0) is not base
    found = reward.score(pictures(), PROMPTS)
    assert torch.equal(found, reward.at(0).score(pictures(), PROMPTS))
    assert (found - base.score(pictures(), PROMPTS)).abs().max() > 1e-3


def test_without_noise_it_is_the_base(reward, base):
    before = base.score(pictures(), PROMPTS)
    reward.at(0.75).score(pictures(), PROMPTS)
    assert torch.equal(reward.score(pictures(), PROMPTS), before)
    assert torch.equal(base.score(pictures(), PROMPTS), before)


def test_an_ensemble_hands_the_level_on(reward, base):
    found = ensemble([reward, base])
    each = found.each(pictures(), PROMPTS, level=0.7)
    assert torch.equal(each["noise-aware"], reward.at(0.75).score(pictures(), PROMPTS))
    assert torch.equal(each["shapes-clip"], base.score(pictures(), PROMPTS))


def test_gradients_reach_the_images(reward):
    images = pictures().requires_grad_()
    reward.at(0.75).score(images, PROMPTS).sum().backward()
    assert reward.differentiable and images.grad.flatten(1).norm(dim=1).min() > 1e-6
    assert not any(p.requires_grad for p in reward.at(0.75).model.parameters())


def test_only_what_differs_is_kept(reward, base):
    """Tensors of the base are shared, those of the last block are of the level."""
    assert all(name.startswith(LAST) for tensors in reward.levels.values() for name in tensors)
    theirs = dict(reward.at(0.75).model.named_parameters())
    for name, value in base.model.named_parameters():
        assert (theirs[name] is value) == (not name.startswith(LAST)), name


def test_it_is_saved_and_loaded(reward, base, folder, tmp_path):
    (tmp_path / "level-0.5.safetensors").write_bytes(b"of a reward before")
    reward.save_pretrained(tmp_path)
    files = sorted(f.name for f in tmp_path.iterdir())
    assert files == ["level-0.25.safetensors", "level-0.75.safetensors", FILE]
    again = NoiseAware.from_pretrained(tmp_path, ShapesCLIP(folder))
    for level in (0.0, 0.25, 0.75):
        found, wanted = (one.at(level).score(pictures(), PROMPTS) for one in (again, reward))
        assert torch.equal(found, wanted)
    tensors = load_file(tmp_path / files[0])
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert tensors.keys() == reward.levels[0.25].keys()


def test_the_shipped_reward_is_the_usual_base(tmp_path):
    base = ShapesCLIP()
    bias = base.model.state_dict()["vision_model.post_layernorm.bias"] + 0.5
    NoiseAware(base, {1.0: {"vision_model.post_layernorm.bias": bias}}).save_pretrained(tmp_path)
    found = NoiseAware.from_pretrained(tmp_path)
    assert found.levels.keys() == {1.0}
    assert torch.equal(found.score(pictures(), PROMPTS), base.score(pictures(), PROMPTS))
    assert not torch.equal(found.at(1).score(pictures(), PROMPTS), base.score(pictures(), PROMPTS))


def test_another_base_is_refused(reward, folder, tmp_path):
    reward.save_pretrained(tmp_path)
    for other in (None, CLIPScore(folder)):
        with pytest.raises(
            ValueError, match=r"trained on other weights of 'shapes-clip' .* pass its own base"
        ):
            NoiseAware.from_pretrained(tmp_path, other)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({}, "at least one level, got none"),
        ({1.5: {}}, "share of noise in a sample, 0 to 1, got 1.5"),
        ({-0.1: {}}, "got -0.1"),
        ({float("nan"): {}}, "got nan"),
        ({0.5: {"a.b": torch.ones(1)}}, "'a.b' of level 0.5 is no tensor of the base"),
        ({0.5: {"logit_scale": torch.ones(2)}}, r"'logit_scale' of level 0.5 must be \[\], got \[2\]"),
        ({0.5: {"logit_scale": torch.tensor(float("inf"))}}, "finite and below 65504"),
    ],
)
def test_wrong_levels_are_refused(base, levels, message):
    with pytest.raises(ValueError, match=message):
        NoiseAware(base, levels)


def test_wrong_bases_and_levels_are_refused(reward):
    with pytest.raises(ValueError, match="made of a reward with a CLIPModel"):
        NoiseAware(lambda images, prompts: images, {0.5: {}})
    with pytest.raises(ValueError, match="0 to 1, got 20"):
        reward.at(20)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"a folder with {FILE}, and .* has none"):
        NoiseAware.from_pretrained(tmp_path)
    for text in ("{", "[]", '{"base": 1}', json.dumps({"base": "a", "sha256": {}, "levels": [{"level": 1}]})):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match="is no table of levels"):
            NoiseAware.from_pretrained(tmp_path)
    rows = [{"level": 1, "file": "../away.safetensors"}]
    (tmp_path / FILE).write_text(json.dumps({"base": "a", "sha256": {}, "levels": rows}))
    with pytest.raises(ValueError, match="is no table of levels"):
        NoiseAware.from_pretrained(tmp_path)


def test_names():
    assert dx.rewards.NoiseAware is NoiseAware
