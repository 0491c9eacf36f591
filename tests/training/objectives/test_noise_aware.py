"""A reward learns to score estimates as it scores the finished pictures, one level after the other."""

import json
from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.rewards import NoiseAware, ShapesCLIP
from diffusers_ext.training import runs
from diffusers_ext.training.data import estimates
from diffusers_ext.training.data.estimates import Estimates
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.noise_aware import NoiseAwareObjective
from diffusers_ext.training.recipes import NoiseAwareConfig
from diffusers_ext.zoo import cards, catalogue
from tests.close import close

CALL = {**catalogue.MODELS["shapes-sd3"].call, "num_inference_steps": 4}
TINY = NoiseAwareConfig(samples=64, batch=8, warmup=8, log_every=1, steps=(2, 1), prompts=4)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for name, value in (("SHARD", 16), ("TOGETHER", 8), ("IMAGES", 4)):
        monkeypatch.setattr(estimates, name, value)
    monkeypatch.setattr(runs, "NoiseAwareConfig", lambda: TINY)


@pytest.fixture(scope="module")
def base():
    return ShapesCLIP()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("estimates")


@pytest.fixture
def data(base, home):
    pipe = dx.load("shapes-sd3")
    pipe.set_progress_bar_config(disable=True)
    return Estimates(pipe, CALL, base, home, 0, TINY.steps, TINY.prompts)


def test_only_the_last_blocks_of_the_picture_half_learn(base, data):
    objective = NoiseAwareObjective(base, data, 1, TINY)
    trained = [name for name, p in objective.model.named_parameters() if p.requires_grad]
    assert set(trained) == objective.parameters().keys()
    assert {name.split(".")[0] for name in trained} == {"vision_model", "visual_projection"}
    assert {name.split(".")[3] for name in trained if ".layers." in name} == {"3"}
    both = NoiseAwareObjective(base, data, 1, replace(TINY, blocks=2)).parameters()
    assert {name.split(".")[3] for name in both if ".layers." in name} == {"2", "3"}
    assert not any(p.requires_grad for p in base.model.parameters())


def test_the_loss_compares_the_pictures_of_each_prompt_with_their_ends(base, data):
    objective = NoiseAwareObjective(base, data, 1, TINY)
    pictures, prompts, scores = objective.inputs(0, 0.0)
    texts = [data.texts[i] for i in prompts]
    wrong = (base.score(pictures / 255, texts) - scores).view(2, 4)
    # the mean over all pairs of pictures of a prompt, which is twice the variance
    pairs = (wrong[:, :, None] - wrong[:, None]).square().mean((1, 2))
    wanted = pairs.mean() / 2
    close(objective.loss(pictures, prompts, scores).detach(), wanted, 512)
    assert all(
        torch.equal(a, b) for a, b in zip(objective.inputs(0, 0.0), (pictures, prompts, scores), strict=True)
    )


def test_learning_lowers_the_loss_and_leaves_the_base(base, data, tmp_path):
    before = {k: v.clone() for k, v in base.model.state_dict().items()}
    objective = NoiseAwareObjective(base, data, 1, replace(TINY, samples=160, lr=1e-3))

    def loss():
        with torch.no_grad():
            return sum(float(objective.loss(*objective.inputs(step, 0.0))) for step in range(4))

    first = loss()
    assert fit(objective, tmp_path)
    assert loss() < 0.7 * first
    assert all(torch.equal(v, before[k]) for k, v in base.model.state_dict().items())


def test_a_level_begins_with_the_weights_of_the_one_before(base, data):
    first = NoiseAwareObjective(base, data, 2, TINY)
    with torch.no_grad():
        first.model.visual_projection.weight.add_(1)
    second = NoiseAwareObjective(base, data, 1, TINY, start=first.tensors())
    assert torch.equal(second.model.visual_projection.weight, first.model.visual_projection.weight)


def test_a_run_gives_a_reward_with_a_card_and_goes_on(base, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MODELS", {"shapes-sd3": replace(catalogue.MODELS["shapes-sd3"], call=CALL)})
    name = "shapes-clip-noise-aware"
    part = NoiseAware.from_pretrained(runs.run(name, tmp_path, Run(minutes=0)), base)
    assert len(part.levels) == 1
    folder = runs.run(name, tmp_path)
    cards.verify_weights(folder)
    card = cards.card(folder)
    assert card["levels"] == sorted(card["levels"]) and len(card["levels"]) == 2 and card["samples"] == 128
    reward = NoiseAware.from_pretrained(folder, base)
    assert sorted(reward.levels) == card["levels"]
    images, text = torch.rand(2, 3, 64, 64), ["a red circle"] * 2
    assert torch.equal(reward.score(images, text), base.score(images, text))
    for level in card["levels"]:
        assert not torch.equal(reward.at(level).score(images, text), base.score(images, text))
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert {line["level"] for line in log} == set(card["levels"])


def test_another_start_is_refused(tmp_path):
    with pytest.raises(ValueError, match="starts from the reward shapes-clip"):
        runs.run("shapes-clip-noise-aware", tmp_path, Run(start=tmp_path))
