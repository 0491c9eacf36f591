"""Training of an NPNet on pairs of a tiny pipeline: text of each pair, loss, resuming, export."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import diffusers_ext as dx
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.npnet.collect import Collection, collect
from diffusers_ext.training import noise as training
from diffusers_ext.training.data.noise_pairs import NoisePairs
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.npnet import NPNetObjective
from diffusers_ext.training.recipes import NPNetConfig
from diffusers_ext.zoo import cards
from tests.close import close
from tests.hosts import built
from tests.sampling.npnet.tiny import network

SMALL = [
    "svd_hidden=8",
    "svd_last_hidden=12",
    "svd_heads=4",
    "swin_size=16",
    "swin_patch=4",
    "swin_window=4",
    "swin_width=8",
    "swin_depths=[1]",
    "swin_heads=[2]",
    "swin_layout=spatial",
]
PROMPTS = [
    f"a {colour} {shape}" for colour in ("red", "blue", "green", "black") for shape in ("star", "disc")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of the tiny Stable Diffusion."""
    folder = tmp_path_factory.mktemp("model")
    built("sd")[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(model, tmp_path_factory):
    """Pairs of it."""
    folder = tmp_path_factory.mktemp("pairs")
    call = dict(height=32, width=32, num_inference_steps=2)
    collect(built("sd")[1], PROMPTS * 3, folder, Collection(steps=2), model=str(model), **call)
    return folder


@pytest.fixture
def objective(pairs):
    """The objective for a network of the same sizes, with texts that say which prompt they are."""

    def encode(prompts):
        return torch.stack([torch.full((32, 32), float(PROMPTS.index(p))) for p in prompts])

    model = network(sample_size=16, text_tokens=32, text_width=32).requires_grad_(True)
    return NPNetObjective(model, NoisePairs(pairs), encode, NPNetConfig(samples=64, batch=8, warmup=0))


def test_each_pair_is_learned_with_its_own_text(objective):
    noise, golden, text = objective.inputs(3, 0.0)
    data = objective.pairs
    for row, one, words in zip(noise, golden, text, strict=True):
        (place,) = (i for i in data.train if torch.equal(data.read([i]).noise[0], row))
        pair = data.read([place])
        assert torch.equal(pair.golden[0], one)
        assert (words == PROMPTS.index(pair.prompts[0])).all()
    assert len({float(words[0, 0]) for words in text}) > 1


def test_inputs_depend_on_step_and_seed(objective):
    one, again, other = (objective.inputs(step, 0.0)[0] for step in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_loss_is_the_mean_squared_distance(objective):
    objective.prepare(torch.device("cpu"))
    noise, golden, text = objective.inputs(0, 0.0)
    made = objective.pipe(noise, text)
    wanted = sum((m - g).square().mean() for m, g in zip(made, golden, strict=True)) / len(made)
    close(objective.loss(noise, golden, text), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        close(objective.loss(noise, golden, text), wanted)


@torch.no_grad()
def test_the_evaluation_compares_with_the_identity(objective):
    model, held = objective.pipe, objective.pairs.read(objective.pairs.held_back)
    made = model(held.noise, objective.encode(held.prompts))
    lost, identity = ((x - held.golden).square().mean() for x in (made, held.noise))
    found = objective.evaluate()
    assert found["explained"] == pytest.approx(float(1 - lost / identity), rel=1e-4)
    assert found["explained"] != found["unpaired"]
    for parameter in (*model.svd.mlp4[2].parameters(), model.alpha, model.beta):
        parameter.zero_()
    assert objective.evaluate() == pytest.approx({"explained": 0, "unpaired": 0}, abs=1e-4)


def test_all_parameters_learn(objective, tmp_path):
    before = {k: v.detach().clone() for k, v in objective.pipe.named_parameters()}
    assert fit(objective, tmp_path, Run())
    assert not [k for k, v in objective.pipe.named_parameters() if torch.equal(v, before[k])]


def test_a_run_stops_goes_on_and_writes_a_network(model, pairs, tmp_path, cli):
    out = tmp_path / "npnet"
    words = ["train", "npnet", "--model", model, "--pairs", pairs, "--out", out, "--batch", 4, "--threads", 1]
    words += [w for setting in SMALL for w in ("--set", setting)]
    code, _, err = cli(*words, "--samples", 16, "--minutes", 0)
    assert code == 0 and "stopped after step 1" in err
    code, said, _ = cli(*words, "--samples", 16)
    assert code == 0 and said == f"wrote {out}\n"
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4]
    cards.verify_weights(out)
    card = json.loads((out / cards.CARD).read_text())
    assert (
        card["noise_of"] == str(model)
        and card["model"] == "NPNetModel"
        and card["pairs"] == 24
        and card["collection"]["steps"] == 2
    )
    weights = load_file(out / "diffusion_pytorch_model.safetensors")
    assert {v.dtype for v in weights.values()} == {torch.float16}
    npnet = dx.NPNet.from_pretrained(out)
    assert npnet.model.config.text_tokens == 32 and npnet.model.config.swin_layout == "spatial"
    pipe = built("sd")[1]
    host = HostCall(pipe, "a red star", torch.Generator().manual_seed(0), height=32, width=32)
    noise = host.draw(1).noise
    assert 0 < (npnet(host, noise) - noise).abs().max() < 5
    with pytest.raises(ValueError, match=r"another network, .*begin anew with --restart"):
        training.run(str(model), pairs, [*SMALL, "svd_sign=canonical"], out)


def test_pairs_of_another_model_are_refused(pairs, saved_model, tmp_path):
    with pytest.raises(ValueError, match=r"pairs of its own model.*collect pairs with it first"):
        training.run(str(saved_model), pairs, [], tmp_path)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("npnet",), "learns from pairs and nothing else does, got none"),
        (("shapes-sd3", "--pairs", "here"), "got them for 'shapes-sd3'"),
        (("npnet", "--pairs", "here", "--start", "shapes-sd3"), "starts from the seed alone"),
        (("npnet", "--pairs", "here"), "two pairs or more, here holds 0"),
    ],
)
def test_bad_input(refused, tmp_path, monkeypatch, words, match):
    monkeypatch.chdir(tmp_path)
    assert re.search(match, refused("train", *words, "--out", "out"))


@pytest.mark.parametrize("text", ["swin_widht=8", "swin_width", "text_tokens=8"])
def test_settings_that_a_network_does_not_have_are_refused(text):
    with pytest.raises(ValueError, match=f"--set takes key=value with one of .*swin_width.*got '{text}'"):
        training.chosen([text])


def test_settings_are_read_from_text():
    found = training.chosen(["swin_depths=[2, 1]", "svd_sign=canonical", "svd_attention=false"])
    assert found == {"swin_depths": [2, 1], "svd_sign": "canonical", "svd_attention": False}
