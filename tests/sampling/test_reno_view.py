"""Gradients of scores to noise: finite differences, loops by hand, cut graphs, and what they cost."""

import copy
from functools import partial

import pytest
import torch
from transformers import CLIPModel, CLIPTextConfig, CLIPVisionConfig

import diffusers_ext as dx
from diffusers_ext.errors import MethodError
from diffusers_ext.rewards import ensemble
from diffusers_ext.sampling.budget import Budget
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.reno_view import Viewer, _scale
from diffusers_ext.sampling.search import Search
from tests.close import MODEL, close
from tests.hosts import built
from tests.tiny_models.parts import SPECIAL, seeded

SPARSE = [
    dx.CLEAR(radius=2, backend="reference"),
    dx.GNA(window=(3, 3, 3), dense_steps=0, backend="reference"),
]
alike = partial(close, level=4 * MODEL)  # a backward pass adds roundings of its own


def red(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def even(images, prompts):
    return -(images - 0.5).square().mean((1, 2, 3))


def clip():
    """A tiny CLIPModel."""
    shared = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4)
    text = CLIPTextConfig(**SPECIAL, **shared, max_position_embeddings=16)
    vision = CLIPVisionConfig(**shared, image_size=32, patch_size=8)
    config = dict(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    return seeded(lambda: CLIPModel(CLIPModel.config_class(**config)), 4)


def fits(model):
    """A reward by a CLIPModel: the cosine of the picture and of some words."""
    words = torch.arange(12)[None] % 50

    def score(images, prompts):
        seen = model.get_image_features(images.to(model.dtype)).pooler_output
        with torch.no_grad():
            read = model.get_text_features(words).pooler_output
        return torch.cosine_similarity(seen, read)

    return score


def viewer(pipe, host, rewards, prompts=1, *, limit=None, cfg=False, steps=1, **options):
    words = ["a red circle", "a blue star"][:prompts]
    generators = [torch.Generator().manual_seed(i) for i in range(prompts)]
    kind = host.guided if cfg else host.unguided
    call = HostCall(pipe, words, generators, num_inference_steps=steps, **host.size, **host.extra, **kind)
    return Viewer(Search(call, ensemble(rewards), Budget(limit)), **options)


def gradient(view, starts, rows=None):
    with view.ready():
        return view.look(starts, rows or range(len(starts.noise)), True).gradient()


@pytest.mark.parametrize("steps", [1, 2])
def test_the_gradient_is_that_of_finite_differences(steps):
    host, pipe = built("sd")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()
    score = fits(clip().double())
    offset = 0.0

    def reward(images, prompts):
        return 1e3 * (score(images, prompts) - offset)  # scores are in float32, so they begin at 0

    view = viewer(pipe, host, reward, steps=steps)
    starts = view.search.host.draw(1)
    starts = starts.with_noise(starts.noise.double())
    with view.ready():
        offset = view.look(starts, [0], False).total.double() / 1e3
        found = view.look(starts, [0], True).gradient().double()
        direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        for way in (direction / direction.norm(), found / found.norm()):
            ends = [starts.with_noise(starts.noise + h * way) for h in (1e-4, -1e-4)]
            up, down = (view.look(end, [0], False).total.double() for end in ends)
            wanted = float(up - down) / 2e-4
            assert float((found * way).sum()) == pytest.approx(
                wanted, rel=1e-3, abs=1e-6 * float(found.norm())
            )


@pytest.mark.parametrize("grad_steps", [1, 2, 3])
def test_earlier_predictions_count_as_constants(grad_steps):
    host, pipe = built("sd")
    view = viewer(pipe, host, red, steps=3, grad_steps=grad_steps)
    starts = view.search.host.draw(1)
    found = gradient(view, starts)
    noise = starts.noise.clone().requires_grad_()
    words, _ = pipe.encode_prompt("a red circle", "cpu", 1, False)
    pipe.scheduler.set_timesteps(3)
    x = noise
    for i, t in enumerate(pipe.scheduler.timesteps):
        prediction = pipe.unet(x, t, encoder_hidden_states=words).sample
        x = pipe.scheduler.step(prediction.detach() if i < 3 - grad_steps else prediction, t, x).prev_sample
    picture = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5
    (wanted,) = torch.autograd.grad(red(picture.clamp(0, 1), []).sum(), noise)
    alike(found, wanted)
    assert (view.search.budget.evaluations, view.search.budget.gradients) == (3, grad_steps)


def test_more_steps_than_there_are_is_all_of_them():
    host, pipe = built("sd")
    starts = viewer(pipe, host, red).search.host.draw(1)
    both = [gradient(viewer(pipe, host, red, steps=2, grad_steps=n), starts) for n in (9, None)]
    assert torch.equal(*both)


def test_rewards_one_by_one_add_up_to_their_sum():
    host, pipe = built("sd")
    rewards = [(red, 2.0), (fits(clip()), 0.5), even]
    one, two = (viewer(pipe, host, rewards, one_by_one=way) for way in (True, False))
    starts = one.search.host.draw(1)
    alike(gradient(one, starts), gradient(two, starts))
    alone = [gradient(viewer(pipe, host, r), starts) for r in (red, fits(clip()), even)]
    alike(gradient(one, starts), 2 * alone[0] + 0.5 * alone[1] + alone[2])


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("name", ["sd", "wan"])
def test_some_prompts_have_the_gradient_of_all(name, cfg):
    host, pipe = built(name)
    view = viewer(pipe, host, red, prompts=2, cfg=cfg)
    starts = view.search.host.draw(1)
    both = gradient(view, starts)
    alike(gradient(view, starts, [1]), both[1:])
    assert both[0].abs().max() > 0 and view.search.budget.gradients == 3 * (1 + cfg)


def test_cost_is_known_beforehand():
    host, pipe = built("sd")
    view = viewer(pipe, host, red, cfg=True, steps=3, grad_steps=2)
    starts = view.search.host.draw(1)
    with view.ready():
        view.look(starts, [0], True).gradient()
        view.look(starts, [0], False)
    assert view.search.budget.cost == view.cost(2, True) == 2 * 3 * 2 + 2 * 2 * 2
    assert view.cost(2, False) == 12


def test_a_gradient_that_is_not_paid_for_is_not_taken():
    host, pipe = built("sd")
    view = viewer(pipe, host, red, limit=2)
    with pytest.raises(Exception, match="its budget of 2 evaluations is spent"):
        gradient(view, view.search.host.draw(1))
    assert view.search.budget.gradients == 0


def test_methods_of_a_session_are_in_the_gradient():
    host, pipe = built("sd")
    view = viewer(pipe, host, red)
    starts = view.search.host.draw(1)
    plain = gradient(view, starts)
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None}, scale=3.0)):
        found = gradient(view, starts)
        with view.ready():
            h = 1e-2 * found / found.norm()
            ends = [view.look(starts.with_noise(starts.noise + way * h), [0], False) for way in (1, -1)]
    assert not torch.allclose(found, plain, rtol=1e-3)
    slope = float(ends[0].total - ends[1].total) / 2e-2
    assert slope == pytest.approx(float(found.norm()), rel=0.02)
    assert view.search.budget.gradients == 1 + 2, "the extra pass is propagated back, too"


@pytest.mark.parametrize("sparse", SPARSE, ids=lambda method: method.name)
def test_sparse_attention_carries_gradients(sparse):
    host, pipe = built("wan" if sparse.name == "gna" else "sd3")
    plain_view = viewer(pipe, host, red)
    starts = plain_view.search.host.draw(1)
    plain = gradient(plain_view, starts)
    with dx.apply(pipe, sparse):
        found = gradient(viewer(pipe, host, red), starts)
    assert torch.isfinite(found).all() and found.abs().max() > 0
    assert not torch.equal(found, plain)


def test_a_cut_graph_is_one_sentence():
    host, pipe = built("sd")
    pipe.vae = copy.deepcopy(pipe.vae)
    pipe.vae.decode = torch.no_grad()(pipe.vae.decode)
    view = viewer(pipe, host, red)
    with pytest.raises(MethodError, match="StableDiffusionPipeline carry no gradient to the noise"):
        gradient(view, view.search.host.draw(1))


def test_a_function_that_turns_out_to_have_no_gradient_is_one_sentence():
    host, pipe = built("sd")
    view = viewer(pipe, host, lambda images, prompts: [0.5])
    with pytest.raises(MethodError, match="'reward' has none; leave it out, or take fresh=True"):
        gradient(view, view.search.host.draw(1))


def test_a_small_autoencoder_carries_gradients_and_the_own_one_scores():
    from diffusers import AutoencoderTiny

    host, pipe = built("sd")
    small = seeded(
        lambda: AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        5,
    )
    view = viewer(pipe, host, red, decoder=small)
    starts = view.search.host.draw(1)
    plain = viewer(pipe, host, red)
    with view.ready():
        looked = view.look(starts, [0], True)
        found = looked.gradient()
    with plain.ready():
        wanted = plain.look(starts, [0], False)
    assert torch.equal(looked.pictures, wanted.pictures) and torch.equal(looked.total, wanted.total)
    noise = starts.noise.clone().requires_grad_()
    x = HostCall.run(plain.search.host, starts.with_noise(noise), grad=True)
    picture = (small.decode(x).sample / 2 + 0.5).clamp(0, 1)
    alike(found, torch.autograd.grad(red(picture, []).sum(), noise)[0])
    assert pipe.vae is not small


def test_float16_gradients_are_scaled_by_a_power_of_two():
    slope = torch.tensor([3e-7, -1e-9])
    scale = _scale(slope)
    assert torch.tensor(scale).log2().frac() == 0 and 1 <= slope.abs().max() * scale < 2
    assert (slope * scale).half().float()[0] / scale == pytest.approx(3e-7, rel=1e-3)
    assert slope.half().float()[1] == 0, "which float16 would have lost"
    assert _scale(torch.zeros(2)) == _scale(torch.tensor([torch.inf])) == 1.0
