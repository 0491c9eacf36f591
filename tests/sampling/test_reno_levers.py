"""Options for memory: they change no gradient, and all is as it was after them."""

import pytest
import torch
from torch import nn

import diffusers_ext as dx
from diffusers_ext.errors import UnsupportedError
from diffusers_ext.sampling.reno_levers import (
    checkpointed,
    checkpointed_layers,
    frozen,
    modules_of,
)
from tests.hosts import built
from tests.sampling.test_reno_view import clip, fits, red


class Fits:
    """A reward with a network as an attribute."""

    def __init__(self):
        self.model = clip().requires_grad_(True)
        self.score = fits(self.model)


def sample(pipe, host, rewards, **options):
    sampler = dx.ReNO(rewards=rewards, **dict(iterations=3) | options)
    call = host.size | host.extra | host.unguided
    generator = torch.Generator().manual_seed(0)
    steps = max(2, host.least_steps)
    return sampler.sample(
        pipe, "a red circle", generator=generator, num_inference_steps=steps, output_type="pt", **call
    )


def counted(modules, kind):
    """Count forward calls of layers of a class."""
    calls = []
    for module in modules:
        for layer in module.modules():
            if type(layer).__name__ == kind:
                layer.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("name", "option", "part", "kind"),
    [
        ("sd", "checkpoint_denoiser", "unet", "ResnetBlock2D"),
        ("sd3", "checkpoint_denoiser", "transformer", "JointTransformerBlock"),
        ("flux", "checkpoint_denoiser", "transformer", "FluxTransformerBlock"),
        ("sd", "checkpoint_decoder", "vae", "UpDecoderBlock2D"),
    ],
)
def test_checkpointing_runs_blocks_again_and_changes_nothing(name, option, part, kind):
    host, pipe = built(name)
    calls = counted([getattr(pipe, part)], kind)
    plain = sample(pipe, host, red)
    once = len(calls)
    found = sample(pipe, host, red, **{option: True})
    assert len(calls) - once > once, "the blocks ran again"
    assert torch.equal(found.noise, plain.noise) and torch.equal(found.images, plain.images)


def test_layers_of_rewards_run_again_and_change_nothing():
    host, pipe = built("sd")
    reward = Fits()
    calls = counted([reward.model], "CLIPMLP")
    plain = sample(pipe, host, reward)
    once = len(calls)
    found = sample(pipe, host, reward, checkpoint_rewards=True)
    assert len(calls) - once == once + 2 * 2, "two layers ran again in two iterations, those of text did not"
    assert torch.equal(found.noise, plain.noise) and torch.equal(found.scores, plain.scores)
    assert not [m for m in reward.model.modules() if "forward" in vars(m)]


def test_weights_are_as_they_were():
    host, pipe = built("sd")
    reward = Fits()
    pipe.unet.requires_grad_(True)
    pipe.vae.decoder.requires_grad_(True)
    some = next(pipe.unet.parameters()).requires_grad_(False)
    parts = [pipe.unet, pipe.vae, pipe.text_encoder, reward.model]
    before = [p.requires_grad for part in parts for p in part.parameters()]
    calls = []

    def watching(images, prompts):
        calls.append([p.requires_grad for part in parts for p in part.parameters()])
        return red(images, prompts)

    sample(pipe, host, [reward, watching])
    assert len(calls) == 3 and not any(map(any, calls))
    assert [p.requires_grad for part in parts for p in part.parameters()] == before
    assert some.grad is None and not [p for part in parts for p in part.parameters() if p.grad is not None]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_is_as_it_was_after_an_error(failing):
    host, pipe = built("sd")
    pipe.unet.requires_grad_(True)
    pipe.vae.enable_gradient_checkpointing()
    before = [dict(vars(m)) for m in (*pipe.unet.modules(), *pipe.vae.modules())]
    reward, count = Fits(), []

    def fails(images, prompts):
        count.append(1)
        if len(count) > failing:
            raise RuntimeError("the reward fails")
        return red(images, prompts)

    with pytest.raises(RuntimeError, match="the reward fails"):
        options = dict(checkpoint_denoiser=True, checkpoint_decoder=True, checkpoint_rewards=True)
        sample(pipe, host, [reward, fails], **options)
    after = [dict(vars(m)) for m in (*pipe.unet.modules(), *pipe.vae.modules())]
    assert all(p.requires_grad for p in (*pipe.unet.parameters(), *reward.model.parameters()))
    for a, b in zip(before, after, strict=True):
        assert {k: v for k, v in a.items() if "checkpoint" in k or k == "forward"} == {
            k: v for k, v in b.items() if "checkpoint" in k or k == "forward"
        }
    assert pipe.vae.is_gradient_checkpointing and not pipe.unet.is_gradient_checkpointing
    assert not [m for m in reward.model.modules() if "forward" in vars(m)]


def test_a_model_without_checkpointing_is_refused():
    host, pipe = built("wan")
    with pytest.raises(UnsupportedError, match=r"AutoencoderKLWan of diffusers 0\.42 has none"):
        sample(pipe, host, red, checkpoint_decoder=True)
    with pytest.raises(UnsupportedError), checkpointed(nn.Linear(1, 1), "checkpoint_decoder"):
        pass


def test_blocks_run_again_under_a_session_where_they_find_their_own_call():
    host, pipe = built("sd")
    last = dict(grad_steps=1)
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None}, scale=3.0)):
        plain = sample(pipe, host, red, **last)
        found = sample(pipe, host, red, checkpoint_denoiser=True, **last)
        with pytest.raises(UnsupportedError, match="softpag has prepared for another call of the denoiser"):
            sample(pipe, host, red, checkpoint_denoiser=True)
    assert torch.equal(found.noise, plain.noise) and torch.equal(found.images, plain.images)
    assert not pipe.unet.is_gradient_checkpointing
    sample(pipe, host, red, checkpoint_denoiser=True)


class Moves(nn.Linear):
    """A network that remembers where it was sent."""

    def __init__(self):
        super().__init__(3, 1)
        self.sent = []

    def to(self, device):
        self.sent.append(str(device))
        return super().to(device)


class Network:
    def __init__(self):
        self.net = Moves()

    def score(self, images, prompts):
        self.net.sent.append("scores")
        return self.net(images.mean((2, 3))).flatten()


def test_rewards_wait_elsewhere():
    host, pipe = built("sd")
    reward = Network()
    found = sample(pipe, host, reward, iterations=2, offload_rewards=True)
    once = ["cpu", "scores", "cpu"]  # to the pictures, and back
    assert reward.net.sent == ["cpu", *once, *once, "cpu"]
    assert torch.equal(found.noise, sample(pipe, host, reward, iterations=2).noise)


def test_networks_are_found_at_any_place():
    reward = Network()
    inside = dx.rewards.ensemble([(reward, 2.0), red])
    assert [modules_of(r) for r, _ in inside.parts] == [[reward.net], []]
    assert modules_of({"a": [reward, reward], "b": (nn.ReLU(),)})[0] is reward.net
    loop = Network()
    loop.self = loop
    assert modules_of(loop) == [loop.net]


def test_contexts_put_things_back():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    with frozen([net]):
        assert not net.weight.requires_grad
    assert net.weight.requires_grad and not net.bias.requires_grad
    model = clip()
    with checkpointed_layers([model]):
        with checkpointed_layers([model]):  # the same network in two rewards
            pass
        wrapped = [m for m in model.modules() if "forward" in vars(m)]
    assert len(wrapped) == 4 and not [m for m in model.modules() if "forward" in vars(m)]
