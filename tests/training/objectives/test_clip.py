import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_ext.rewards.shapes import ShapesCLIP
from diffusers_ext.training.fit import Run
from diffusers_ext.training.objectives import clip
from diffusers_ext.training.objectives.clip import CLIPObjective, contrast, draw, tokens
from diffusers_ext.training.recipes import CLIPConfig
from diffusers_ext.training.runs import run
from diffusers_ext.zoo import cards, catalogue, models
from diffusers_ext.zoo.models import build_processor
from diffusers_ext.zoo.world.captions import Object, Spec
from diffusers_ext.zoo.world.mistakes import may_show
from diffusers_ext.zoo.world.render import render
from diffusers_ext.zoo.world.scenes import sample_scene

TINY = CLIPConfig(samples=256, batch=32, warmup=32, reuse=2, evaluate_every=10**9, muon_lr=0.0)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(clip, "SHARD", 64)


@pytest.fixture
def objective(vae, monkeypatch):
    monkeypatch.setattr(models.clip, "WIDTH", 32)
    return CLIPObjective(vae, TINY)


def test_training_draws_and_names_nothing_held_out():
    scenes, wrong = draw(0, 0, 400, 3)
    assert not any(s.spec.held_out for s in scenes)
    assert not any(m.held_out for own in wrong for m in own)
    assert all(len(own) == 3 for own in wrong)


def test_neighbours_are_one_mistake_apart():
    scenes, _ = draw(0, 0, 100, 0)
    for one, other in zip(scenes[::2], scenes[1::2], strict=True):
        assert not may_show(one, other.spec) and not may_show(other, one.spec)


def test_the_stream_does_not_depend_on_where_it_is_entered():
    assert draw(0, 20, 6, 2) == tuple(part[20:26] for part in draw(0, 0, 40, 2))


def test_captions_that_hold_as_well_are_left_out():
    red, blue, star = Object("red", "circle"), Object("blue", "square"), Object("green", "star")
    rng = np.random.default_rng(0)
    specs = [Spec((red, blue), "left of"), Spec((red, blue)), Spec((red, blue, star)), Spec((red,) * 2)]
    scenes = [sample_scene(s, rng) for s in specs]
    scenes[1] = replace(scenes[1], places=((15.0, 30.0, 8.0), (45.0, 30.0, 8.0)))  # left of, by chance
    extra = [
        Spec((blue, red)),
        Spec((blue, red), "right of"),
        Spec((blue, red), "left of"),
        Spec((star, red, blue)),
        Spec((red,) * 3),
    ]
    found = contrast(scenes, [*specs, *extra])
    expected = [
        [1, 0, 1, 1, 0, 0, 1, 1, 1],
        [0, 1, 1, 1, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert (found == np.array(expected, bool)).all()


def test_the_longest_caption_fits():
    tokenizer = build_processor().tokenizer
    longest = Spec(tuple(Object(c, "cross") for c in ("orange", "purple", "yellow")))
    ids = tokens(tokenizer, [longest, Spec((Object("red", "star"),))])
    assert ids.shape == (2, clip.CAPTION_TOKENS)
    assert (ids == tokenizer.eos_token_id).any(1).all()


@pytest.mark.parametrize("batch", [1, 3, 33, 48, 128])
def test_batches_that_would_be_cut_are_refused_before_data_are_drawn(objective, monkeypatch, batch):
    """Pairs would be split, or the last batch of a shard cut short."""
    monkeypatch.setattr(clip, "draw", lambda *_: pytest.fail("data were drawn"))
    objective.recipe = replace(TINY, batch=batch)
    with pytest.raises(ValueError, match=f"a batch that is even and divides 64, got {batch}; 128 and 512"):
        objective.prepare(torch.device("cpu"))


def test_inputs_depend_on_the_step_alone(objective, vae):
    """A resumed run enters anywhere: step 5 is in another shard and in its second round."""
    fresh = CLIPObjective(vae, TINY)
    for step in range(5):
        objective.inputs(step, 0.0)
    for a, b in zip(objective.inputs(5, 0.0), fresh.inputs(5, 0.5), strict=True):
        assert torch.equal(a, b)


def test_each_round_uses_every_picture_once_with_its_pair(objective):
    rounds = [torch.cat([objective.inputs(step, 0.0)[0] for step in steps]) for steps in ((0, 1), (2, 3))]
    key = [sorted(hash(i.numpy().tobytes()) for i in images) for images in rounds]
    assert key[0] == key[1]
    assert not torch.equal(*rounds)


def test_the_loss_is_the_one_of_its_formula(objective):
    """Compare with a plain loop over rows, with the model's features taken as they are."""
    objective.prepare(torch.device("cpu"))
    images, ids, counts, noise = objective.inputs(0, 0.0)
    with torch.no_grad():
        loss = objective.loss(images, ids, counts, noise).item()
        pixels = images / 127.5 - 1 + noise
        seen = objective.model.get_image_features(pixels).pooler_output
        read = objective.model.get_text_features(ids).pooler_output
    seen, read = seen / seen.norm(dim=-1, keepdim=True), read / read.norm(dim=-1, keepdim=True)
    logits = (objective.model.logit_scale.exp() * seen @ read.T).detach().double().numpy()
    terms = []
    for i in range(len(images)):
        across, down = logits[i][counts[i]], logits[:, i][counts[:, i]]
        terms += [np.log(np.exp(across).sum()) - logits[i, i], np.log(np.exp(down).sum()) - logits[i, i]]
    assert loss == pytest.approx(np.mean(terms), rel=1e-4)


def test_every_parameter_gets_a_gradient_and_the_autoencoder_none(objective):
    objective.loss(*objective.inputs(0, 0.0)).backward()
    assert all(p.grad is not None for p in objective.parameters().values())
    matrices = {n: p for n, p in objective.parameters().items() if p.ndim > 1}
    assert not [n for n, p in matrices.items() if not p.grad.abs().max() > 0]
    assert all(p.grad is None for p in objective.vae.parameters())


def test_the_command_trains_a_reward_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "SHARD", 128)
    folder = run("shapes-clip", tmp_path, Run(samples=256))
    cards.verify_weights(folder)
    card = json.loads((folder / cards.CARD).read_text())
    assert (card["model"], card["steps"], card["samples"]) == ("CLIPModel", 2, 256)
    image = torch.from_numpy(render(draw(0, 0, 2, 0)[0][0])[0]).permute(2, 0, 1)[None] / 255
    assert torch.isfinite(ShapesCLIP(folder).score(image, ["a red circle"])).all()
    padding = json.loads((folder / "tokenizer.json").read_text())["padding"]
    assert padding is None, "not that of its last call"


def test_a_run_from_given_weights_leaves_the_text_half_alone(tmp_path, monkeypatch):
    """Text encoders of other models began with the text half."""
    monkeypatch.setattr(clip, "SHARD", 128)
    home = catalogue.path("shapes-clip")
    folder = run("shapes-clip", tmp_path, Run(samples=256, start=home))
    old, new = (load_file(f / "model.safetensors") for f in (home, folder))
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert {n for n in old if n.startswith("text_model.")} <= same
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" not in same and "text_projection.weight" not in same
    card = json.loads((folder / cards.CARD).read_text())
    assert card["start"] == {"name": "shapes-clip", "sha256": cards.checksums(cards.weight_files(home), home)}
    with pytest.raises(ValueError, match="another start"):
        run("shapes-clip", tmp_path, Run(samples=512, start=folder))
